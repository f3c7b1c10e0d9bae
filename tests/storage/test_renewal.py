"""The server or the secrets change while connections are open: new connections are made in time."""

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from datastorage.errors import TransientError
from datastorage.metrics import Dependency
from datastorage.records.vector import EmbeddingModel
from datastorage.resilience.breaker import Breaker
from datastorage.secrets import Origin
from datastorage.storage.connection.database import Database, Pace
from datastorage.storage.schema import VECTORS
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive
from harness.objects import audit_record, record_of
from harness.polling import DEADLINE_SECONDS, eventually
from harness.postgres import TestDatabase, TestDatabases, connect
from harness.proxy import FreezableProxy

_SETTING = "DATASTORAGE_DATABASE_URL"
# Longer than any test waits: what waits for a silent server as long as for a statement never ends.
_PATIENT = 10 * DEADLINE_SECONDS
_POOL_SIZE = 4
_DEFAULT_PACE = Pace()
_CUT = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Writer:
    """The archive as the operator writes to it, behind the breaker that the operator has."""

    def __init__(self, url: str | Origin, pace: Pace) -> None:
        self.database = Database(url, pool_size=_POOL_SIZE, writable=True, pace=pace)
        self.archive = Archive(self.database)
        self.breaker = Breaker(Dependency.POSTGRES, self.archive.probe, on_recovery=lambda: None)

    async def store(self) -> None:
        """Store a record; return when it is stored."""
        record = record_of(audit_record())
        await self.breaker.run(lambda: self.archive.write([record]))

    async def pid(self) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval("SELECT pg_backend_pid()"))

    async def close(self) -> None:
        await self.breaker.close()
        await self.database.close()


class Make(Protocol):
    """Makes a writer, which is closed in the end."""

    def __call__(self, url: str | Origin, pace: Pace = ...) -> Writer: ...


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Writer] = []

    def writer(url: str | Origin, pace: Pace = _DEFAULT_PACE) -> Writer:
        made.append(Writer(url, pace))
        return made[-1]

    yield writer
    for each in made:
        await each.close()


def _role(database: TestDatabase) -> str:
    return str(urlsplit(database.service_url).username)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("default_transaction_read_only = on", "accepts no writes: default_transaction_read_only is on"),
        ("statement_timeout = '100ms'", "statement timeout"),
    ],
)
@pytest.mark.parametrize("of_role", [False, True])
async def test_settings_for_new_connections_leave_nothing_behind(
    cloned: TestDatabase, owner: Any, make: Make, setting: str, words: str, *, of_role: bool
) -> None:
    name = setting.partition(" ")[0]
    whose = f"ROLE {_role(cloned)} IN DATABASE" if of_role else "DATABASE"
    writer = make(cloned.service_url)
    await writer.store()
    await owner.execute(f"ALTER {whose} {cloned.name} SET {setting}")
    await owner.execute(_CUT, cloned.name)
    working = asyncio.create_task(writer.breaker.run(lambda: _work(writer)))
    # Too little time is no outage: other statements may be quicker.
    await eventually(lambda: words in (writer.breaker.reason or writer.breaker.refused or ""))
    await owner.execute(f"ALTER {whose} {cloned.name} RESET {name}")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await working
        await asyncio.gather(*(_work(writer) for _ in range(_POOL_SIZE)))
        await writer.store()


async def _work(writer: Writer) -> None:
    """Run a statement that takes a moment."""
    async with writer.database.connection() as connection:
        await connection.execute("SELECT pg_sleep(0.2)")


async def test_a_missing_right_holds_the_writer_back_until_it_is_granted(
    cloned: TestDatabase, owner: Any, make: Make
) -> None:
    writer = make(cloned.service_url)
    await writer.archive.probe()
    await owner.execute("REVOKE INSERT ON datastorage.audit_records FROM datastorage_service")
    with pytest.raises(TransientError, match="permission denied for table audit_records"):
        await writer.archive.probe()
    await owner.execute("GRANT INSERT ON datastorage.audit_records TO datastorage_service")
    await writer.archive.probe()
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == 0


async def test_one_connection_that_finds_a_standby_replaces_all(cloned: TestDatabase, make: Make) -> None:
    """Once one connection finds its server read-only, no connection to that server is used any more."""
    writer = make(cloned.service_url)
    before = await _all_pids(writer)
    assert len(before) == _POOL_SIZE
    async with writer.database.connection() as connection:
        await connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    with pytest.raises(TransientError, match="read-only transaction"):
        await writer.archive.write([record_of(audit_record())])
    assert before.isdisjoint(await _all_pids(writer))


async def _all_pids(writer: Writer) -> set[int]:
    """Return the server's processes of all connections, each of which is open then."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(writer.database.connection()) for _ in range(_POOL_SIZE)]
        return {int(await connection.fetchval("SELECT pg_backend_pid()")) for connection in opened}


async def test_a_server_that_died_behind_a_proxy_costs_one_time_out(
    cloned: TestDatabase, owner: Any, make: Make
) -> None:
    """The proxy keeps the connections open, and everything that is sent on them disappears."""
    async with FreezableProxy(cloned.service_url) as proxy:
        writer = make(proxy.url, Pace(command_seconds=_PATIENT, trusted_seconds=0.0, answer_seconds=0.5))
        await _all_pids(writer)
        proxy.freeze_open_connections()
        await owner.execute(_CUT, cloned.name)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await writer.store()
        assert writer.breaker.reason is None


async def test_a_silence_during_work_does_not_delay_each_connection(
    cloned: TestDatabase, owner: Any, make: Make
) -> None:
    async with FreezableProxy(cloned.service_url) as proxy:
        writer = make(proxy.url, Pace(command_seconds=_PATIENT, trusted_seconds=3600.0))
        await _all_pids(writer)
        proxy.freeze_open_connections()
        await owner.execute(_CUT, cloned.name)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await writer.archive.write([record_of(audit_record())])
        async with asyncio.timeout(DEADLINE_SECONDS):
            await writer.store()


async def test_silent_connections_are_dropped_without_a_log(
    cloned: TestDatabase, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with FreezableProxy(cloned.service_url) as proxy:
        writer = make(proxy.url, Pace(release_seconds=0.1))
        await _all_pids(writer)
        proxy.freeze_open_connections()
        before = asyncio.all_tasks()
        writer.database.expire_connections()
        await _all_pids(writer)
        await eventually(lambda: not [task for task in asyncio.all_tasks() - before if "close" in repr(task)])
        gc.collect()  # an exception that nobody has retrieved is logged then
    assert not caplog.records


async def test_names_are_looked_up_again_from_time_to_time(cloned: TestDatabase, make: Make) -> None:
    """A server that the name no longer leads to still serves its open connections."""
    writer = make(cloned.service_url)
    pid = await writer.pid()
    assert await writer.pid() == pid
    impatient = make(cloned.service_url, Pace(max_age_seconds=0.0))
    assert await impatient.pid() != await impatient.pid()


async def test_facts_about_one_database_are_not_used_for_another(
    databases: TestDatabases, cloned: TestDatabase, tmp_path: Path
) -> None:
    other = await databases.clone()
    there = await connect(other.owner_url)
    await there.execute("SELECT datastorage.ensure_embedding_model('test', 'yours', 3)")
    await there.close()
    origin = Origin(VECTORS.setting, cloned.service_url, tmp_path)
    database = Database(origin, pool_size=2, chain=VECTORS)
    tables = VectorTables(database, EmbeddingModel("test", "mine", 3))
    assert await tables.model_id() == 1
    (tmp_path / VECTORS.setting).write_text(other.service_url)

    async def has_moved() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval("SELECT current_database()") == other.name)

    await eventually(has_moved)
    assert await tables.model_id() == 2
    await database.close()


class Rotation:
    """A login role whose URL stands in a secrets directory."""

    def __init__(self, owner: Any, database: TestDatabase, directory: Path) -> None:
        self._owner, self._database, self._directory = owner, database, directory
        self.role = f"rotated_{secrets.token_hex(4)}"
        self.file = directory / _SETTING

    def url(self, password: str, query: str = "") -> str:
        parts = urlsplit(self._database.service_url)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.role}:{password}@{host}", query=query).geturl()

    async def set_password(self, password: str) -> None:
        await self._owner.execute(f"ALTER ROLE {self.role} PASSWORD '{password}'")

    async def cut(self) -> None:
        await self._owner.execute(_CUT, self._database.name)

    def origin(self, password: str, query: str = "") -> Origin:
        self.file.write_text(self.url(password, query))
        return Origin(_SETTING, self.url(password, query), self._directory)


@pytest_asyncio.fixture
async def rotation(cloned: TestDatabase, owner: Any, tmp_path: Path) -> AsyncIterator[Rotation]:
    made = Rotation(owner, cloned, tmp_path)
    await owner.execute(f"CREATE ROLE {made.role} LOGIN PASSWORD 'one' IN ROLE datastorage_service")
    yield made
    await made.cut()
    await owner.execute(f"DROP ROLE {made.role}")


async def test_a_new_password_is_read_after_the_old_one_was_revoked(rotation: Rotation, make: Make) -> None:
    writer = make(rotation.origin("one"))
    await writer.store()
    await rotation.set_password("two")
    await rotation.cut()
    storing = asyncio.create_task(writer.store())
    await eventually(lambda: "password authentication failed" in (writer.breaker.reason or ""))
    rotation.file.write_text(rotation.url("two") + "\n")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await storing


async def test_a_process_without_work_notices_a_new_password_with_its_next_question(
    rotation: Rotation, make: Make
) -> None:
    """The old password is refused, the new one is there already, and nobody has to ask twice."""
    writer = make(replace(rotation.origin("one"), look_seconds=0.0))
    await writer.store()
    await rotation.set_password("two")
    rotation.file.write_text(rotation.url("two"))
    await rotation.cut()
    await writer.pid()


async def test_connections_are_replaced_when_the_password_changes(rotation: Rotation, make: Make) -> None:
    writer = make(rotation.origin("one"))
    pid = await writer.pid()
    await rotation.set_password("two")
    rotation.file.write_text(rotation.url("two"))

    async def is_new() -> bool:
        return await writer.pid() != pid

    await eventually(is_new)
    await writer.store()
    assert writer.breaker.reason is None


async def test_working_connections_stay_while_the_new_password_is_not_valid(
    rotation: Rotation, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    writer = make(rotation.origin("one"))
    pid = await writer.pid()
    rotation.file.write_text(rotation.url("two"))

    async def is_reported() -> bool:
        assert await writer.pid() == pid
        await asyncio.sleep(0.05)
        return "does not work yet" in caplog.text

    await eventually(is_reported)
    await writer.store()
    await rotation.set_password("two")

    async def is_new() -> bool:
        return await writer.pid() != pid

    await eventually(is_new)
    assert caplog.text.count("does not work yet") == 1
    assert rotation.url("two") not in caplog.text


@pytest.mark.parametrize(
    "value", ["", "mysql://user:hunter2@host/name", "postgresql://u:1#hunter2@host/name"]
)
async def test_a_malformed_value_is_reported_and_not_used(
    rotation: Rotation, make: Make, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    writer = make(rotation.origin("one"))
    pid = await writer.pid()
    rotation.file.write_text(value)

    async def is_reported() -> bool:
        assert await writer.pid() == pid
        await asyncio.sleep(0.05)
        return bool(caplog.records)

    await eventually(is_reported)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"{_SETTING} has changed and can't be used")
    assert "hunter2" not in str(record.__dict__)


async def test_a_value_that_the_driver_refuses_is_reported_and_not_used(
    rotation: Rotation, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(rotation.origin("one"))
    pid = await writer.pid()
    rotation.file.write_text(rotation.url("one", "sslmode=verify-full&sslrootcert=/no/such/file"))

    async def is_reported() -> bool:
        assert await writer.pid() == pid
        await asyncio.sleep(0.05)
        return bool(caplog.records)

    await eventually(is_reported)
    await writer.store()


async def test_a_new_certificate_means_new_connections(
    rotation: Rotation, make: Make, tmp_path: Path
) -> None:
    """A mounted Secret is replaced through a symbolic link, and is missing for a moment."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "ca.crt").write_text(f"certificate {version}")
    data = tmp_path / "..data"
    data.symlink_to("1")
    writer = make(rotation.origin("one", f"sslmode=disable&sslrootcert={data / 'ca.crt'}"))
    pid = await writer.pid()
    data.unlink()
    asked = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < asked + 1.2:  # a look comes about
        assert await writer.pid() == pid
        await asyncio.sleep(0.05)
    data.symlink_to("2")

    async def is_new() -> bool:
        return await writer.pid() != pid

    await eventually(is_new)
    await writer.store()


async def test_a_new_password_in_the_service_file_means_new_connections(
    rotation: Rotation, cloned: TestDatabase, make: Make, tmp_path: Path
) -> None:
    parts = urlsplit(cloned.service_url)
    services = tmp_path / "services"

    def write(password: str) -> None:
        lines = [
            f"host={parts.hostname}", f"port={parts.port}", f"user={rotation.role}", f"password={password}",
        ]  # fmt: skip
        services.write_text("\n".join(["[audit]", *lines]) + "\n")

    write("one")
    writer = make(f"postgresql:///{cloned.name}?service=audit&servicefile={services}")
    pid = await writer.pid()
    await rotation.set_password("two")
    write("two")

    async def is_new() -> bool:
        return await writer.pid() != pid

    await eventually(is_new)
    await writer.store()
    assert writer.breaker.reason is None
