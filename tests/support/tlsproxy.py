"""TLS in front of a PostgreSQL that was built without it."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@asynccontextmanager
async def tls_in_front_of(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """Run a proxy that shows the context's certificate; yield the URL that leads through it."""
    target = urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if await reader.readexactly(8) == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                there = await asyncio.open_connection(target.hostname, target.port)
                await asyncio.gather(_hand_on(reader, there[1]), _hand_on(there[0], writer))
        writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", 0)  # 127.0.0.2 is a name that no certificate has
    port = server.sockets[0].getsockname()[1]
    user = target.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(target._replace(netloc=f"{user}@127.0.0.1:{port}"))
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hand_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()
