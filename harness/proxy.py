"""A proxy that can be redirected to another server, or frozen: connections stay open, but no data passes."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit, urlunsplit


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Listen and never answer, like a server behind a broken network; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class FreezableProxy:
    """Forwards data to and from the server of a URL until it is frozen; a context manager."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        """``tls`` is the context for clients; the connection to the server itself has no TLS."""
        self._target = urlsplit(url)
        self._tls = tls
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._target.netloc.rpartition("@")
        self.url = urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Let no data pass from now on."""
        self._open.clear()

    def thaw(self) -> None:
        """Let all data pass again, including what has waited."""
        self._open.set()

    def freeze_open_connections(self) -> None:
        """Let no data pass on the open connections, not even their end. New connections work."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def redirect_to(self, url: str) -> None:
        """Connect new clients to the server of another URL; open connections stay as they are."""
        self._target = urlsplit(url)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._hand_on(source, sink, self._open))
            self._tasks.add(task)

    @staticmethod
    async def _hand_on(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_open: asyncio.Event
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    await is_open.wait()
                    sink.write(data)
                    await sink.drain()
            await is_open.wait()
        finally:
            sink.close()
