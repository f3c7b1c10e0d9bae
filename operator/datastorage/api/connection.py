"""One client's connection, which is cut when the client takes too long."""

import asyncio
from contextvars import copy_context
from http import HTTPStatus
from typing import ClassVar, Final

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from datastorage import metrics
from datastorage.api.problems import Problem
from datastorage.api.requestid import RAW_HEADER, RequestName, new_request_id

NEXT_STAGE: Final = "datastorage.next_stage"
"""The ASGI extension for answers in many pieces: called with seconds, it gives the next piece that time."""


class BoundedConnection(H11Protocol):
    """A connection of uvicorn with a time limit; uvicorn's own waits forever for requests and slow readers.

    A timer runs while a request is awaited, and starts again for its answer. Bytes that the client sends or
    reads meanwhile do not stop the timer: otherwise a byte now and then would keep the connection open.
    """

    stage_seconds: ClassVar[float]
    """How long each of the two stages may take (api/server.py)."""
    most: ClassVar[int]
    """Connections open at once. One more takes the place of the one that has waited longest for a request."""

    _begun: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]  # of a socket, so that it can be written to
        self._begin_stage()
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent; if a request has begun, begin to wait for the end of its answer."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self.scope["extensions"] = {NEXT_STAGE: self._begin_stage}  # type: ignore[dict-item]  # it names its own
            self._begin_stage()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or for the answer to one that has come already."""
        super().on_response_complete()
        self._begin_stage()

    def shutdown(self) -> None:
        """Close the connection after the answer that is under way, and say so in the answer."""
        super().shutdown()
        if not self._is_idle and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def send_400_response(self, msg: str) -> None:
        """Answer to what is not HTTP, with a problem as any other answer."""
        name = RequestName(new_request_id())
        problem = copy_context().run(self._refusal, name, msg)
        headers = [*problem.raw_headers, (RAW_HEADER, name.id.encode()), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(problem.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @staticmethod
    def _refusal(name: RequestName, message: str) -> Response:
        name.begin()
        return Problem(HTTPStatus.BAD_REQUEST, "invalid-http", message).response()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _is_idle(self) -> bool:
        # uvicorn does not declare that there is no cycle before the first request.
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def _make_room(self) -> None:
        metrics.LIMITS_HIT.labels(metrics.Limit.CONNECTIONS).inc()
        # Refusing the newest connection instead would let idle clients keep out the probes of /health.
        others = [c for c in self.connections if isinstance(c, BoundedConnection) and c is not self]
        idle = [connection for connection in others if connection._is_idle]  # noqa: SLF001  # of its own class
        longest = min(idle, key=lambda connection: connection._begun, default=self)  # noqa: SLF001
        # It ends in a later turn of the loop, and must not be chosen again for the next one of a burst.
        self.connections.discard(longest)
        longest.transport.abort()

    def _begin_stage(self, seconds: float | None = None) -> None:
        self._begun = self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        seconds = self.stage_seconds if seconds is None else seconds
        self._timer = self.loop.call_later(seconds, self.transport.abort)
