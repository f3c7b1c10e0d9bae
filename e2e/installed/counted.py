"""A load during a fault, and the count of its records on both sides: in the cluster and in PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.installed.installation import Installation
from e2e.installed.portforward import PortForward
from e2e.installed.serverclock import read_clock
from e2e.load import Load, all_stored
from e2e.workbench import Workbench
from harness.archive import fetch, rows, uids
from harness.bulk import BulkClient
from harness.controlplane import ControlPlaneError
from harness.installed import NAMESPACE, POSTGRES
from harness.polling import until

SETTLE_SECONDS: Final = 120.0
"""The longest that a test waits until everything is stored and cleared; numbers are printed, not asserted."""

_PORT: Final = 5432
_TTL_SECONDS: Final = 3
_PER_SECOND: Final = 20.0
# Enough records on each side of a fault to show that storing goes on.
_SOME: Final = 20
_STORED: Final = "SELECT uid FROM datastorage.audit_records WHERE uid = ANY($1::uuid[])"
_TIMES: Final = """
    SELECT uid, created_at, stored_at FROM datastorage.audit_records WHERE namespace = $1 ORDER BY stored_at
"""
# What breaks when PostgreSQL, its pod or the way to it ends. OSError has the broken connections.
_BROKEN: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ControlPlaneError)


class InstalledPostgres:
    """The PostgreSQL of the installation, reached through the API server."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def forward(self) -> PortForward:
        """Return a way to it."""
        return PortForward(self._installation.cluster, NAMESPACE, POSTGRES, _PORT)

    def url(self, forward: PortForward, *, owner: bool = False) -> str:
        """Return the URL of the archive over a way, for the service's role or for the owner's."""
        variable = "DATASTORAGE_DATABASE_OWNER_URL" if owner else "DATASTORAGE_DATABASE_URL"
        parts = urlsplit(self._installation.secret("datastorage-database")[variable])
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{forward.port}").geturl()


@dataclass
class Counted:
    """A load, and what is known about its records."""

    load: Load
    namespace: str
    longest_gap_seconds: float = 0.0
    """The longest time in which no record was stored, by PostgreSQL's clock; known after the end."""
    slowest_seconds: float = 0.0
    """The longest time from the creation of a record to its row."""

    async def some_more(self) -> None:
        """Wait until more records were created."""
        count = len(self.load.accepted) + _SOME

        async def reached() -> bool:
            return len(self.load.accepted) >= count

        await until(reached, seconds=SETTLE_SECONDS, what="records are created")

    def __str__(self) -> str:
        return (
            f"{len(self.load.accepted)} records: 0 lost, 0 twice, 0 deleted early; "
            f"the longest time without a stored record {self.longest_gap_seconds:.1f} s, "
            f"the slowest record {self.slowest_seconds:.1f} s"
        )


class Counting:
    """Counts the records of one namespace."""

    def __init__(self, workbench: Workbench, client: BulkClient, postgres: InstalledPostgres) -> None:
        """The URLs of ``workbench`` are not used: each part has a way to PostgreSQL of its own."""
        self._workbench = workbench
        self._client = client
        self._postgres = postgres

    @asynccontextmanager
    async def load(self, *, per_second: float = _PER_SECOND) -> AsyncIterator[Counted]:
        """Create records while the context lasts, which begins when some are stored; then compare both sides.

        Each record is deleted by the operator some seconds after it was stored. At the end every record that
        the API server has accepted has one row, is gone from the cluster, and was there until its row was.
        """
        namespace, seen, early = self._workbench.namespace, dict[str, float](), list[str]()
        opened = asyncio.Event()
        watching = asyncio.create_task(self._check_deletions(seen, early, opened))
        try:
            await _first(opened.wait(), watching)
            load = Load(self._client, namespace, per_second=per_second, ttlSecondsAfterStored=_TTL_SECONDS)
            async with load:
                counted = Counted(load, namespace)
                await counted.some_more()
                await until(self._some_stored, seconds=SETTLE_SECONDS, what="records are stored")
                yield counted
                await counted.some_more()
            await _first(self._compare(counted, seen, early), watching)
            assert early == [], "nothing leaves the cluster before it is stored"
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _compare(self, counted: Counted, seen: Mapping[str, float], early: list[str]) -> None:
        accepted, namespace = counted.load.accepted, self._workbench.namespace
        with self._postgres.forward() as way:
            self._workbench.database_url = self._postgres.url(way)
            await until(
                lambda: all_stored(self._client, self._workbench, accepted),
                seconds=SETTLE_SECONDS,
                what="all records are stored",
            )

            async def cleared() -> bool:
                return not await self._client.names(AUDIT_RECORD, namespace) and seen.keys() >= set(accepted)

            await until(cleared, seconds=SETTLE_SECONDS, what="all records are cleared from the cluster")
            found = uids(await rows(self._workbench.database_url, namespace))
            times = await fetch(self._workbench.database_url, _TIMES, namespace)
            clock = await read_clock(self._workbench.database_url)
        assert sorted(found) == sorted(accepted), "0 lost, 0 twice"
        assert seen.keys() == set(accepted), "the cluster had the same records"
        # The transaction that wrote a row may begin just after the object was gone, and end before the look
        # for the row.
        began = {str(row["uid"]): row["stored_at"] for row in times}
        early += [uid for uid, moment in seen.items() if began[uid] > clock.latest(moment)]
        counted.longest_gap_seconds = longest_gap([row["stored_at"] for row in times])
        counted.slowest_seconds = max((row["stored_at"] - row["created_at"]).total_seconds() for row in times)

    async def _some_stored(self) -> bool:
        selector = "status.phase=Stored"
        return bool(await self._client.list(AUDIT_RECORD, self._workbench.namespace, field_selector=selector))

    async def _check_deletions(self, seen: dict[str, float], early: list[str], opened: asyncio.Event) -> None:
        """Note each object that was deleted and when, and those whose rows are missing at that moment."""
        deleted: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_up(deleted, seen, early))
            async for event, body in self._client.watch(
                AUDIT_RECORD, self._workbench.namespace, opened=opened
            ):
                if event == "DELETED":
                    deleted.put_nowait((body["metadata"]["uid"], time.monotonic()))

    async def _look_up(
        self, deleted: asyncio.Queue[tuple[str, float]], seen: dict[str, float], early: list[str]
    ) -> None:
        with self._postgres.forward() as way:
            url = self._postgres.url(way)
            while True:
                batch = [await deleted.get()]
                while not deleted.empty():
                    batch.append(deleted.get_nowait())
                found = await self._stored(url, way, [uid for uid, _ in batch])
                early += [uid for uid, _ in batch if uid not in found]
                seen.update(batch)

    async def _stored(self, url: str, way: PortForward, batch: Sequence[str]) -> set[str]:
        """Return those that have a row. PostgreSQL may just be away."""

        async def answered() -> tuple[list[Any]] | None:
            try:
                return (await fetch(url, _STORED, batch),)
            except _BROKEN:
                await _renewed(way)
                return None

        (found,) = await until(answered, seconds=SETTLE_SECONDS, what="PostgreSQL answers")
        return {str(row["uid"]) for row in found}


async def _first(work: Coroutine[Any, Any, Any], watching: asyncio.Task[None]) -> None:
    """Await some work, which would wait in vain if the watching has ended with an error."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        await task
    finally:
        task.cancel()


async def _renewed(way: PortForward) -> None:
    with suppress(ControlPlaneError):  # PostgreSQL's pod may not be there yet
        await asyncio.to_thread(way.renew)


def longest_gap(times: Sequence[datetime]) -> float:
    """Return the longest time between two that follow each other, in seconds."""
    gaps = ((later - earlier).total_seconds() for earlier, later in pairwise(sorted(times)))
    return max(gaps, default=0.0)
