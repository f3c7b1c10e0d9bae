"""The database's endpoint moves or its password is replaced: the running operator needs no restart."""

import asyncio
import json
import secrets
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.storing import Callers, body
from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.archive import rows
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.postgres import PostgresServer, StandbyServer, connect
from harness.proxy import FreezableProxy

CUT = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


async def test_a_standby_behind_the_endpoint_is_reported_and_left(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer
) -> None:
    primary_url = workbench.database_url
    with StandbyServer(postgres) as standby:
        async with FreezableProxy(primary_url) as proxy:
            workbench.database_url = proxy.url
            operator = workbench.start_operator(wait=False)
            await until(lambda: _ready(operator), what="/ready")
            pid = operator.pid
            await _store(client, workbench, primary_url, "before")
            proxy.redirect_to(standby.moved(primary_url))
            await workbench.execute_as_owner(CUT)
            await client.create(AUDIT_RECORD, workbench.namespace, audit_record("meanwhile"))
            await until(lambda: _says(operator, "is a read-only standby"), what="/ready says why")
            workbench.database_url = standby.moved(primary_url)
            await until(
                lambda: _stored(workbench.database_url, workbench, "before"), what="it is on the standby"
            )
            listed = await asyncio.to_thread(workbench.datastorage, "list", "-o", "json")
            assert len(json.loads(listed)["records"]) == 1, "a standby is good enough to read"
            proxy.redirect_to(primary_url)
            await until(
                lambda: _stored(primary_url, workbench, "before", "meanwhile"),
                what="what waited is stored",
            )
            await until(lambda: _ready(operator), what="/ready again")
            assert operator.pid == pid


async def test_a_standby_that_is_named_first_answers_neither_repeats_nor_questions(
    workbench: Workbench, postgres: PostgresServer
) -> None:
    """So it is after a failover, unless somebody changes the order of the hosts."""
    with StandbyServer(postgres) as standby:
        primary = urlsplit(workbench.database_url)
        first = urlsplit(standby.moved(workbench.database_url)).netloc
        hosts = f"{first},{primary.netloc.rpartition('@')[2]}"
        operator = workbench.start_operator(database_url=primary._replace(netloc=hosts).geturl())
        callers = Callers(workbench.cluster, workbench.namespace)
        token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
        api = ApiClient(operator.api_url, token)
        record = body(workbench.namespace, uid=str(uuid.uuid4()))
        connection = await connect(standby.moved(workbench.owner_url))
        try:
            await connection.execute("SELECT pg_wal_replay_pause()")
            stored = await asyncio.to_thread(api.post, "/store/workflow", record)
            again = await asyncio.to_thread(api.post, "/store/workflow", record)
            whole = await asyncio.to_thread(api.post, "/store/workflow?atomic=true", [record])
            found = await asyncio.to_thread(
                api.get, f"/query/records/{stored.json['uid']}", namespace=workbench.namespace
            )
        finally:
            await connection.execute("SELECT pg_wal_replay_resume()")
            await connection.close()
        assert (stored.status, again.status, found.status) == (201, 200, 200), again.content
        assert again.json == stored.json == whole.json["items"][0]["record"]


async def test_a_password_is_replaced_in_the_secrets_directory(
    workbench: Workbench, client: BulkClient, tmp_path: Path
) -> None:
    role = f"rotated_{secrets.token_hex(4)}"
    await workbench.execute_as_owner(f"CREATE ROLE {role} LOGIN PASSWORD 'one' IN ROLE datastorage_service")
    host = urlsplit(workbench.database_url).netloc.rpartition("@")[2]
    directory = tmp_path / "secrets"
    directory.mkdir()

    def write(password: str) -> str:
        parts = urlsplit(workbench.database_url)
        url = parts._replace(netloc=f"{role}:{password}@{host}").geturl()
        (directory / "DATASTORAGE_DATABASE_URL").write_text(url)
        return url

    write("one")
    operator = workbench.start_operator(SECRETS_DIR=directory)
    pid = operator.pid
    await _store(client, workbench, workbench.database_url, "before")
    await workbench.execute_as_owner(f"ALTER ROLE {role} PASSWORD 'two'")
    await workbench.execute_as_owner(CUT)
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("meanwhile"))
    await until(lambda: _says(operator, "password authentication failed"), what="/ready says why")
    url = write("two")
    await until(
        lambda: _stored(workbench.database_url, workbench, "before", "meanwhile"),
        what="what waited is stored",
    )
    await until(lambda: _ready(operator), what="/ready again")
    assert operator.pid == pid
    assert url not in operator.log()
    operator.close()
    await workbench.execute_as_owner(f"DROP ROLE {role}")


async def _store(client: BulkClient, workbench: Workbench, url: str, name: str) -> None:
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name))
    await until(lambda: _stored(url, workbench, name), what=f"{name} is stored")


async def _stored(url: str, workbench: Workbench, *names: str) -> bool:
    return len(await rows(url, workbench.namespace)) == len(names)


async def _ready(operator: OperatorProcess) -> bool:
    operator.check()
    return await asyncio.to_thread(operator.ready)


async def _says(operator: OperatorProcess, words: str) -> bool:
    operator.check()
    status, body = await asyncio.to_thread(operator.ask, "/ready")
    return status == 503 and words in body
