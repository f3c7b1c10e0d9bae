"""An HTTP server that answers as a test says: for faults that the real one does not have on demand."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Request:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def records(self) -> list[Any]:
        """The JSON values in the lines of the body."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Answering:
    """The server: gives its answers one after the other, and the last one from then on."""

    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    answers: list[web.Response | Exception] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def say(self, status: int, body: Any = None, **headers: str) -> None:
        """Give this answer next: bytes as they are, another value as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append(web.Response(status=status, body=content, headers=named))

    def problem(self, status: int, code: str, detail: str, **headers: str) -> None:
        """Give this problem next."""
        self.say(status, {"title": "Title", "status": status, "code": code, "detail": detail}, **headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(
            Request(request.method, request.path_qs, dict(request.headers), await request.read())
        )
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


@asynccontextmanager
async def answering(tls: ssl.SSLContext | None = None) -> AsyncIterator[Answering]:
    """Serve on a free port of this machine until the end of the block."""
    server = Answering(scheme="http" if tls is None else "https")
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server._answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()
