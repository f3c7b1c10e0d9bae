"""Backups of the archive that are restored, and its move to another server, while the cluster goes on."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.test_restored import phase_of
from e2e.workbench import Workbench
from harness.archive import rows, uids
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.postgres import PostgresServer, RestoredServer, StandbyServer, TestDatabases

PAUSE_SECONDS = 0.02  # between two records, so that an outage leaves some hundreds


async def test_an_older_dump_lacks_only_what_had_left_the_cluster(
    workbench: Workbench,
    client: BulkClient,
    postgres: PostgresServer,
    databases: TestDatabases,
    tmp_path: Path,
) -> None:
    dump = tmp_path / "archive.dump"
    before = await _store_and_clear(workbench, client, "before")
    await _program(postgres, "pg_dump", "-Fc", "-f", str(dump), workbench.owner_url)
    expected = await _go_on_after_the_backup(workbench, client)
    restored = await databases.empty()
    try:
        await _program(postgres, "pg_restore", "-d", restored.owner_url, str(dump))
        await _check_the_restored(workbench, client, restored.service_url, {before, *expected})
    finally:
        await workbench.close()
        await databases.drop(restored)


async def test_an_older_base_backup_lacks_only_what_had_left_the_cluster(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer
) -> None:
    before = await _store_and_clear(workbench, client, "before")
    restored = await asyncio.to_thread(RestoredServer, postgres)
    try:
        expected = await _go_on_after_the_backup(workbench, client)
        await asyncio.to_thread(restored.start)
        url = restored.moved(workbench.database_url)
        await _check_the_restored(workbench, client, url, {before, *expected})
    finally:
        await workbench.close()
        await asyncio.to_thread(restored.remove)


async def _store_and_clear(workbench: Workbench, client: BulkClient, name: str) -> str:
    """Have a record stored and cleared from the cluster; return its uid."""
    workbench.running_operator()
    created = await client.create(
        AUDIT_RECORD, workbench.namespace, audit_record(name, ttlSecondsAfterStored=1)
    )

    async def cleared() -> bool:
        return await client.get(AUDIT_RECORD, workbench.namespace, name) is None

    await until(cleared, what=f"{name} is cleared")
    assert await workbench.has_row(created["metadata"]["uid"])
    return str(created["metadata"]["uid"])


async def _go_on_after_the_backup(workbench: Workbench, client: BulkClient) -> list[str]:
    """Clear a record, which the backup lacks; return the uids of two that are still in the cluster.

    One of them is stored, and the other comes while no operator runs. In the end the operator is stopped.
    """
    await _store_and_clear(workbench, client, "cleared")
    namespace = workbench.namespace
    stored = await client.create(AUDIT_RECORD, namespace, audit_record("stored"))
    await until(partial(phase_of, client, AUDIT_RECORD, namespace, "stored"), what="stored")
    await asyncio.to_thread(workbench.running_operator().terminate)
    waiting = await client.create(AUDIT_RECORD, namespace, audit_record("waiting"))
    return [body["metadata"]["uid"] for body in (stored, waiting)]


async def _check_the_restored(workbench: Workbench, client: BulkClient, url: str, expected: set[str]) -> None:
    operator = workbench.start_operator(database_url=url, SWEEP_INTERVAL_SECONDS=5, GC_INTERVAL_SECONDS=5)
    namespace = workbench.namespace

    async def complete() -> bool:
        return set(uids(await rows(url, namespace))) == expected

    await until(complete, what="what is in the cluster is in the archive")
    for name in ("stored", "waiting"):
        await until(partial(phase_of, client, AUDIT_RECORD, namespace, name), what=name)
    assert len(await rows(url, namespace)) == len(expected)
    # A listing that comes before the row is back, as on a busy machine, counts it once more.
    assert operator.metric('datastorage_rows_missing_total{phase="Stored"}') >= 1


async def test_the_archive_moves_to_another_server_while_records_come(
    workbench: Workbench, client: BulkClient, postgres: PostgresServer, tmp_path: Path
) -> None:
    """A standby takes over, and the file of the Secret names it: the operator goes on without a restart."""
    secret = tmp_path / "secrets" / "DATASTORAGE_DATABASE_URL"
    secret.parent.mkdir()
    secret.write_text(workbench.database_url)
    operator = workbench.start_operator(SECRETS_DIR=secret.parent)
    pid = operator.pid
    new = await asyncio.to_thread(StandbyServer, postgres)
    try:
        await asyncio.to_thread(new.start)
        async with _records_that_come(workbench, client) as created:
            await until(partial(_has_stored, workbench, created), what="records are stored")
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(new.promote)
            _replace(secret, new.moved(workbench.database_url))
            await until(partial(_is_ready, operator), what="/ready again")

        async def complete() -> bool:
            return sorted(uids(await rows(new.moved(workbench.database_url), workbench.namespace))) == sorted(
                created
            )

        await until(complete, what="every record is on the new server, once")
        assert operator.pid == pid
    finally:
        await workbench.close()
        await asyncio.to_thread(new.remove)
        await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def _records_that_come(workbench: Workbench, client: BulkClient) -> AsyncIterator[list[str]]:
    """Create records one after the other until the end of the context; give their uids."""
    created: list[str] = []
    is_over = asyncio.Event()

    async def create() -> None:
        while not is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), PAUSE_SECONDS)
            body = await client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"r-{len(created)}"))
            created.append(body["metadata"]["uid"])

    task = asyncio.create_task(create())
    try:
        yield created
    finally:
        is_over.set()
        await task


async def _has_stored(workbench: Workbench, created: list[str]) -> bool:
    return len(created) > 10 and await workbench.has_row(created[9])


async def _is_ready(operator: OperatorProcess) -> bool:
    return await asyncio.to_thread(operator.ready)


def _replace(secret: Path, url: str) -> None:
    """Exchange the file at once, as the kubelet does."""
    fresh = secret.with_name("..new")
    fresh.write_text(url)
    fresh.rename(secret)


async def _program(postgres: PostgresServer, name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL's. Raises AssertionError with what it says if it fails."""
    command = [str(postgres.programs / name), *arguments]
    done = await asyncio.to_thread(
        partial(subprocess.run, command, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 0, done.stderr
