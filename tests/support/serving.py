"""An HTTP server of the product, started and stopped by a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.api.server import HttpServer


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[None]:
    """Serve until the end of the block."""
    await server.start()
    try:
        yield
    finally:
        await server.stop()
