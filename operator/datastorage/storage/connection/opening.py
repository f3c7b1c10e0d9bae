"""Opens one connection with the driver, and finds out what an answer other than TLS means.

The driver has one error for a server that has no TLS and for anything that is not PostgreSQL, such as a
proxy whose server is away. Waiting helps only in the second case.
"""

import asyncio
import contextlib
import re
import struct
from typing import Any, Final

import asyncpg

from datastorage.storage.connection.tls import demands_tls, prepare_files
from datastorage.storage.connection.urls import ServerUrl

_REJECTED: Final = re.compile(r'"(.+):([0-9]+)" rejected SSL upgrade')
# The first message of a client that wants TLS, and the answer of a server that has none.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_NO_TLS: Final = b"N"


class TlsRefusedError(ConnectionError):
    """The server has no TLS, and the URL demands it."""


class ForeignAnswerError(ConnectionError):
    """The answer is not one that PostgreSQL gives."""


async def open_connection(url: ServerUrl, seconds: float, **options: Any) -> Any:
    """Open a connection of the driver, with a time-out of ``seconds`` and further ``options`` of the driver.

    Raises the driver's errors, and TlsRefusedError or ForeignAnswerError in place of the one for both.
    """
    try:
        return await asyncpg.connect(
            url.driver_url,
            ssl=prepare_files(url),
            timeout=seconds,
            server_settings=dict(url.server_settings),
            **options,
        )
    except ConnectionError as error:
        rejected = _REJECTED.search(str(error))
        if rejected is None:
            raise
        if not demands_tls(url):
            # With sslmode=allow, the driver asks for TLS only after it failed without, and that error counts.
            # With sslmode=prefer, it goes on without TLS if the server has none.
            raise error.__cause__ or ForeignAnswerError(*error.args) from None
        refused = await _refuses_tls(rejected[1], int(rejected[2]), seconds)
        raise (TlsRefusedError if refused else ForeignAnswerError)(*error.args) from error


async def _refuses_tls(host: str, port: int, seconds: float) -> bool:
    """Ask a server for TLS once more, because the driver's error does not have the answer."""
    with contextlib.suppress(OSError):  # includes the time-out
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_SSL_REQUEST)
                return await reader.read(len(_NO_TLS)) == _NO_TLS
            finally:
                writer.close()
    return False
