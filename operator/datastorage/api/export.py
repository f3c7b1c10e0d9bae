"""GET /api/v1/export: the archive as a stream of lines (query/export.py), within the rights of the caller.

A stream that can't go on is cut: its client sees a broken connection, and no last line. A stream is never
ended as if it were complete.
"""

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, Protocol

import zstandard
from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from datastorage import metrics
from datastorage.api import operations
from datastorage.api.conditions import Conditions, QueryType
from datastorage.api.connection import NEXT_STAGE
from datastorage.api.guard import Guard
from datastorage.api.operations import NDJSON
from datastorage.api.parameters import strict_router
from datastorage.api.turns import Turns
from datastorage.errors import DataStorageError, NotAllowedError
from datastorage.query.export import Export
from datastorage.query.filters import Filter
from datastorage.records.caller import Caller
from datastorage.storage.criteria import Scope

_log = logging.getLogger(__name__)

# Both pack JSON several times faster than a network takes it; higher levels would hold the export back.
_GZIP_LEVEL: Final = 1
_ZSTD_LEVEL: Final = 1
_GZIP_FRAME: Final = 16 + zlib.MAX_WBITS
"""Makes zlib write the header and the sum of gzip."""


class Exports(Protocol):
    """The archive, open for exports (query/export.py)."""

    async def begin(self, filter: Filter, *, token: str | None, scope: Scope) -> Export: ...  # noqa: A002


class ExportConditions(Conditions):
    """The conditions of an export."""

    type: QueryType = Field(QueryType.RECORDS, description="The records to export.")
    resume_token: str | None = Field(
        None,
        description="The resumeToken of the last line that was received: the export goes on after it. Valid "
        "for the same conditions only.",
    )


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """How much of the process exports may take."""

    at_once: int = 2
    """Exports under way. Each uses one connection to PostgreSQL at a time, and up to some 20 MB of memory.
    One identity has at most one less, so that it can't keep all others out."""
    patience_seconds: float = 2.0
    """A request waits so long for its turn: an export ends a moment after its client has the last byte."""
    piece_seconds: float = 40.0
    """For a piece of some 256 KB to be read from PostgreSQL, which may take 30 s, and then by the client. A
    client that takes longer is cut off, and resumes."""


@dataclass(frozen=True)
class ExportDesk:
    """The things that the route needs."""

    guard: Guard
    exports: Exports
    limits: ExportLimits = field(default_factory=ExportLimits)

    async def admit(self, request: Request, namespace: str | None) -> tuple[Caller, Scope]:
        """Return the caller and the rows that it may export.

        The right to list shows the rows, and the right to export takes them out in bulk: both are needed.
        Raises NotAuthenticatedError and NotAllowedError.
        """
        caller = await self.guard.caller_of(request.headers)
        return caller, await self._scope_of(caller, namespace)

    async def check(self, caller: Caller, namespace: str | None, scope: Scope) -> None:
        """Raise NotAllowedError if the caller may no longer export these rows.

        An export may take hours, and a right that is taken away ends within seconds. The guard remembers its
        answers for that long, so this may be called often.
        """
        if await self._scope_of(caller, namespace) != scope:
            raise NotAllowedError(f"the namespace {namespace} or the rights in it have changed meanwhile")

    async def _scope_of(self, caller: Caller, namespace: str | None) -> Scope:
        listed = await self.guard.scope_of(caller, "list", namespace)
        exported = await self.guard.scope_of(caller, "export", namespace)
        return listed.within(exported)


def export_router(desk: ExportDesk) -> APIRouter:
    """Return the route that exports the archive."""
    router = strict_router("query")
    turns = Turns(
        desk.limits.at_once,
        patience_seconds=desk.limits.patience_seconds,
        limit=metrics.Limit.EXPORTS,
        refusal="as many exports are under way as this process serves at a time, or serves one identity",
    )

    @router.get("/export", response_class=Response, **operations.EXPORT)
    async def export(request: Request, asked: Annotated[ExportConditions, Query()]) -> Response:
        caller, scope = await desk.admit(request, asked.namespace)

        async def begin() -> Export:
            return await desk.exports.begin(
                asked.filter_of(asked.type), token=asked.resume_token, scope=scope
            )

        check = partial(desk.check, caller, asked.namespace, scope)
        return _Stream(begin, check, turns, _encoding_of(request), _Note(caller, asked), desk.limits)

    return router


@dataclass(frozen=True, slots=True)
class _Note:
    """Logs and counts an export when it ends, however it ends."""

    caller: Caller
    asked: ExportConditions

    def ended(self, export: Export, error: DataStorageError | None) -> None:
        outcome = "complete" if export.is_complete else "broken off"
        cause = metrics.ExportOutcome.ABANDONED if error is None else metrics.ExportOutcome.BROKEN_OFF
        metrics.EXPORT_TOTAL.labels(metrics.ExportOutcome.COMPLETE if export.is_complete else cause).inc()
        values: dict[str, Any] = {
            "user": self.caller.username,
            "verb": "export",
            "filter": self.asked.for_log(),
            "resumed": self.asked.resume_token is not None,
            "count": export.count,
            "outcome": outcome,
        }
        if error is None:
            _log.info("Exported records", extra=values)
        else:
            _log.warning("An export was broken off", extra={**values, "error": str(error)})


class _Stream(Response):
    """The lines of an export, each piece sent when the client has read most of those before."""

    def __init__(
        self,
        begin: Callable[[], Awaitable[Export]],
        check: Callable[[], Awaitable[None]],
        turns: Turns,
        encoding: str | None,
        note: _Note,
        limits: ExportLimits,
    ) -> None:
        headers = {"Vary": "Accept-Encoding, Authorization", "Cache-Control": "no-store"}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        super().__init__(media_type=NDJSON, headers=headers)
        del self.headers["content-length"]
        self._begin = begin
        self._check = check
        self._turns = turns
        self._encoding = encoding
        self._note = note
        self._limits = limits

    @property
    def _start(self) -> dict[str, Any]:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send the export. An error before the first line is raised, and answered with a problem."""
        async with self._turns.take(self._note.caller.username):
            export = await self._begin()
            gone = asyncio.ensure_future(_disconnected(receive))
            next_stage = scope.get("extensions", {}).get(NEXT_STAGE, _nothing)
            next_stage(self._limits.piece_seconds)
            has_begun = False
            error: DataStorageError | None = None
            try:
                async with aclosing(_encoded(export.pieces(), self._encoding)) as pieces:
                    async for piece in pieces:
                        if gone.done():
                            return
                        await self._check()
                        if not has_begun:
                            has_begun = True
                            await send(self._start)
                        if piece:
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                        next_stage(self._limits.piece_seconds)
                await send({"type": "http.response.body", "body": b""})
            except DataStorageError as caught:
                error = caught
                if not has_begun:
                    raise
                # The server cuts the connection of an answer that is not complete.
            finally:
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
                self._note.ended(export, error)


def _nothing(_: float) -> None:
    """Stand in for a server without time limits."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _encoded(pieces: AsyncGenerator[bytes, None], encoding: str | None) -> AsyncGenerator[bytes, None]:
    """Yield the pieces in an encoding. Compressing runs in a thread, beside the event loop."""
    async with aclosing(pieces) as source:
        if encoding is None:
            async for piece in source:
                yield piece
            return
        packer = _PACKERS[encoding]()
        async for piece in source:
            yield await asyncio.to_thread(packer.compress, piece) if piece else b""
        yield packer.flush()


_PACKERS: Final[Mapping[str, Callable[[], Any]]] = {
    "zstd": lambda: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj(),
    "gzip": lambda: zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FRAME),
}


def _encoding_of(request: Request) -> str | None:
    """Return the encoding that the client accepts, zstd before gzip; None if it names neither."""
    accepted: dict[str, float] = {}
    for given in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, parameters = given.partition(";")
        accepted[name.strip()] = _quality(parameters)
    return next((name for name in _PACKERS if accepted.get(name, accepted.get("*", 0.0)) > 0.0), None)


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
