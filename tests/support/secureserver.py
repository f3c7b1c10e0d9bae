"""An HTTPS server that records who connects, how, and on which connection."""

import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import web
from multidict import CIMultiDictProxy

from harness.servingcertificates import Pair

Answer = Callable[[web.Request], web.StreamResponse]


@dataclass
class Visit:
    """One request."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    user: str | None
    """The common name of the client's certificate."""
    connection: int
    """The client's port: another one is another connection."""
    body: bytes


class SecureServer:
    """Answers every request with an empty list, or as the next of ``answers`` says; a context manager."""

    def __init__(self, pair: Pair, *, client_authority: bytes | None = None, host: str = "127.0.0.1") -> None:
        self.visits: list[Visit] = []
        self.answers: list[Answer] = []
        self.always: Answer | None = None
        self._host = host
        self._context = server_context(pair)
        if client_authority is not None:
            self._context.load_verify_locations(cadata=client_authority.decode())
            self._context.verify_mode = ssl.CERT_OPTIONAL
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0, ssl_context=self._context).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def url(self) -> str:
        return f"https://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    def serve_with(self, pair: Pair) -> None:
        """Show another certificate on new connections."""
        load_pair(self._context, pair)

    def seen(self, header: str) -> Sequence[str | None]:
        """Return the values that a header had, request by request."""
        return [visit.headers.get(header) for visit in self.visits]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert") or {}
        names = [
            value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"
        ]
        self.visits.append(
            Visit(
                request.method,
                request.path_qs,
                request.headers,
                names[0] if names else None,
                request.transport.get_extra_info("peername")[1],
                await request.read(),
            )
        )
        if self.answers:
            return self.answers.pop(0)(request)
        if self.always is not None:
            return self.always(request)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})


def server_context(pair: Pair) -> ssl.SSLContext:
    """Return the context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, pair)
    return context


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """Use this certificate for new connections of a context."""
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*pair.write(Path(folder), "pair"))


def status(code: int, message: str) -> Answer:
    """Answer as an API server does for an error."""
    return lambda _: web.json_response(
        {"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code
    )
