"""Serves an ASGI application in the operator's event loop, on one port of all configured addresses.

A client gets little memory and little time: its request must be small and come soon, and it must read the
answer soon. So slow clients can neither lock out the probes nor delay a stop.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from socket import socket

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from datastorage.api.certificate import ServingCertificate
from datastorage.api.connection import BoundedConnection
from datastorage.api.handshakes import HandshakeLimits, Handshakes
from datastorage.api.listening import Listening
from datastorage.resilience.cancellation import end_tasks


@dataclass(frozen=True)
class Limits:
    """Limits for clients."""

    head_bytes: int = 16 * 1024
    """For the request line and headers together."""
    connections: int = 100
    """Kubelet, scrapers and a few people. One more takes the place of the one that has been idle longest."""
    idle_seconds: int = 5
    """How long a connection stays open after an answer."""
    stage_seconds: float = 10.0
    """For a whole request to arrive, and then for its answer to be made and read. The checks behind /ready
    take up to 2 s each.
    """
    close_seconds: float = 5.0
    """The longest that a stop waits for requests that are under way. Most questions take milliseconds. Stores
    have their answers before, when what was taken in is committed.
    """
    backlog: int = 128
    """Connections that wait in the kernel. The server accepts all of them in one turn of the event loop, and
    closes those beyond the limit in the next turn. So this and ``connections`` bound the open files."""
    cut_seconds: float = 1.0
    """For requests to notice that their connection was cut. After that they are cancelled."""
    handshakes: HandshakeLimits = HandshakeLimits()
    """Of a port with TLS."""


class HttpServer:
    """A server on one port. It handles no signals and logs no requests."""

    def __init__(
        self,
        app: ASGIApp,
        listening: Listening,
        limits: Limits = Limits(),
        certificate: ServingCertificate | None = None,
    ) -> None:
        """``certificate`` is that of a port with TLS."""
        self._limits = limits
        self._listening = listening
        self._certificate = certificate
        self._following: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                _quiet_when_cancelled(app),
                # h11 bounds the bytes of a request that is not complete; the faster parser does not.
                http=type(
                    "_Connection",
                    (BoundedConnection,),
                    {"stage_seconds": limits.stage_seconds, "most": limits.connections},
                ),
                h11_max_incomplete_event_size=limits.head_bytes,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=limits.backlog,
                timeout_keep_alive=limits.idle_seconds,
            ),
            None if certificate is None else Handshakes(certificate.context, limits.handshakes),
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen. Raises ConfigurationError, which names the setting and the address."""
        sockets = await self._listening.open()
        if self._certificate is not None:
            self._following = asyncio.create_task(self._certificate.follow(), name="certificate")
        self._serving = asyncio.create_task(self._server.serve(sockets), name="http")
        started = asyncio.create_task(self._server.has_started.wait())
        await asyncio.wait({self._serving, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Stop listening, and cut the connections that do not end by themselves."""
        if self._serving is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait({self._serving}, timeout=self._limits.close_seconds)
        if late:
            await self._cut()
        await asyncio.wait({self._serving})
        if self._following is not None:
            await end_tasks([self._following])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def _cut(self) -> None:
        """End the requests that are still under way. uvicorn would report each as an error."""
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            # First, so that uvicorn knows of the cut when they end.
            await asyncio.wait(list(state.tasks), timeout=self._limits.cut_seconds)
        await end_tasks(list(state.tasks))
        self._server.force_exit = True


def _quiet_when_cancelled(app: ASGIApp) -> ASGIApp:
    """Return the application; a request that is cancelled just ends. Only a stop cancels requests."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return serve


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, handshakes: Handshakes | None) -> None:
        super().__init__(config)
        self._handshakes = handshakes
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        if self._handshakes is None:
            await super().startup(sockets)
        else:
            self.servers = []
            self._handshakes.start(sockets or [], self._connection)
            self.started = True
        self.has_started.set()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        if self._handshakes is not None:
            await self._handshakes.close()
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the runtime."""
        yield
