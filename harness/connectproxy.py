"""A tunnelling proxy that connects every host name to this machine."""

import asyncio
import base64
import contextlib
import ssl
from typing import Self


class ConnectProxy:
    """Answers CONNECT, over TLS where a context is given; a context manager.

    It accepts names that no resolver knows, as a proxy at the border of a private network does.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, user: str | None = None) -> None:
        """``user`` is name:password; with it, clients must log in."""
        self.tunnels: list[str] = []
        self._tls = tls
        self._login = f"Basic {base64.b64encode(user.encode()).decode()}" if user is not None else None
        self._user = user
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The URL to configure."""
        user = f"{self._user}@" if self._user is not None else ""
        return f"{'http' if self._tls is None else 'https'}://{user}127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(maxsplit=2)
            if method != "CONNECT":
                writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            if self._login is not None and f"Proxy-Authorization: {self._login}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            self.tunnels.append(target)
            port = int(target.rpartition(":")[2])
            there, sink = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(sink):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                ways = [asyncio.create_task(_hand_on(*way)) for way in ((reader, sink), (there, writer))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)


async def _hand_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()
