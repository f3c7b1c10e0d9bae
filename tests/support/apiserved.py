"""The REST API on a port, with an archive in memory and without a cluster."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.datastructures import Headers

from datastorage.api import store
from datastorage.api.allowances import Allowances
from datastorage.api.answers import AnswerLimits
from datastorage.api.app import api_app, api_server
from datastorage.api.bodies import RequestLimits
from datastorage.api.export import ExportDesk, ExportLimits, export_router
from datastorage.api.guard import Guard, OpenGuard
from datastorage.api.health import health_routes
from datastorage.api.overviews import overview_router
from datastorage.api.query import Desk, query_router
from datastorage.api.store import Entrance, Submissions, store_router
from datastorage.errors import NotAuthenticatedError
from datastorage.pipeline.item import Outcome
from datastorage.pipeline.submissions import Unknown
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.export import ArchiveExports
from datastorage.query.interface import ScopedArchive
from datastorage.records.caller import Caller
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.storage.connection.database import Database
from datastorage.storage.export import ExportPace, ExportReader
from harness.apiclient import Answer, ApiClient
from harness.objects import AUDIT_SPEC
from harness.ports import free_port
from tests.support.serving import serving

STORED_AT = datetime(2026, 3, 5, 10, 20, 31, tzinfo=UTC)


def body(**metadata: Any) -> dict[str, Any]:
    """Return the body of a request that stores a record."""
    spec = {name: value for name, value in AUDIT_SPEC.items() if name != "type"}
    return {"metadata": {"namespace": "payments", **metadata}, "spec": spec}


IN_PAYMENTS: Final = "system:serviceaccount:payments:robot"


class TokenGuard(OpenGuard):
    """Knows some tokens, each the name of its owner."""

    def __init__(
        self, allowances: Allowances | None = None, names: Sequence[str] = ("robot", "flood", IN_PAYMENTS)
    ) -> None:
        self._allowances = allowances or Allowances()
        self._names = names

    async def caller_of(self, headers: Headers) -> Caller:
        name = headers.get("authorization", "").removeprefix("Bearer ")
        if name not in self._names:
            raise NotAuthenticatedError("no credentials")
        self._allowances.admit(name)
        return Caller(name)

    def charge(self, caller: Caller, records: int) -> None:
        self._allowances.charge(caller.username, records)


@dataclass
class Served:
    """The API, and what it has stored."""

    url: str
    stored: list[Record] = field(default_factory=list)
    storing: asyncio.Event = field(default_factory=asyncio.Event)
    """Records are stored while this is set."""

    def __post_init__(self) -> None:
        self.storing.set()

    async def store(self, records: Sequence[Record]) -> list[Outcome | Unknown]:
        """Store records, as pipeline/submissions.py does."""
        await self.storing.wait()
        self.stored += records
        return [StoredRecord(record.content_hash, STORED_AT, is_new=True) for record in records]

    async def store_whole(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all records, as pipeline/submissions.py does."""
        await self.storing.wait()
        self.stored += records
        return [StoredRecord(record.content_hash, STORED_AT, is_new=True) for record in records]

    async def of_key(self, key: RecordKey, table: Table) -> ArchivedRecord:
        """Raise AssertionError: every record in memory is a new one."""
        raise AssertionError(key, table)

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = "robot",
    ) -> Answer:
        """Send a request without holding the loop."""
        return await asyncio.to_thread(ApiClient(self.url, token).send, method, path, content, headers or {})

    async def raw(self, request: bytes) -> bytes:
        """Send bytes; return what comes until the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def served(
    archive: ScopedArchive,
    limits: RequestLimits | None = None,
    answers: AnswerLimits | None = None,
    *,
    submissions: Submissions | None = None,
    receipts: store.Archive | None = None,
    guard: OpenGuard | None = None,
    allowances: Allowances | None = None,
) -> AsyncIterator[Served]:
    """Serve the API until the end of the block. Without ``submissions``, records are kept in memory.

    ``receipts`` is where ``submissions`` has stored the records of earlier requests.
    """
    port = free_port()
    api = Served(f"http://127.0.0.1:{port}")
    guard = guard or TokenGuard(allowances)
    entrance = Entrance(
        guard, submissions or api, receipts or api, with_texts=False, limits=limits or RequestLimits()
    )
    desk = Desk(guard, archive, answers or AnswerLimits())
    app = api_app(
        [store_router(entrance), query_router(desk), overview_router(desk)],
        health_routes(health={}, ready={}, notes={}),
    )
    server = api_server(app, addresses="127.0.0.1", port=port)
    async with serving(server):
        yield api


@asynccontextmanager
async def exporting(
    database: Database,
    *,
    guard: Guard | None = None,
    limits: ExportLimits = ExportLimits(),
    pace: ExportPace = ExportPace(),
) -> AsyncIterator[Served]:
    """Serve the route of exports until the end of the block."""
    port = free_port()
    desk = ExportDesk(guard or TokenGuard(), ArchiveExports(ExportReader(database, pace)), limits)
    server = api_server(api_app([export_router(desk)], []), addresses="127.0.0.1", port=port)
    async with serving(server):
        yield Served(f"http://127.0.0.1:{port}")
