"""Receives the messages of an Alertmanager, as a chat or a pager would."""

from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer


class Receiver:
    """A webhook on a port of this machine that keeps every message."""

    def __init__(self) -> None:
        """Nothing runs before the context is entered."""
        self.messages: list[dict[str, Any]] = []
        app = web.Application()
        app.router.add_post("/", self._receive)
        self._server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/"))

    def about(self, alert: str, status: str) -> list[dict[str, Any]]:
        """Return what was said of an alert that is firing or resolved."""
        said = [each for message in self.messages for each in message["alerts"]]
        return [each for each in said if (each["labels"]["alertname"], each["status"]) == (alert, status)]

    async def _receive(self, request: web.Request) -> web.Response:
        self.messages.append(await request.json())
        return web.Response()
