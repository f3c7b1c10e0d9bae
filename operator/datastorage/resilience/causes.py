"""Why a connection failed, in words that can't contain an address's secrets."""

import os
import socket
import ssl
from collections.abc import Iterator


def connection_trouble(error: BaseException) -> str:
    """Return the operating system's word for the innermost error, or what kind of error the outermost is."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    told = [inner for inner in _chain(error) if isinstance(inner, OSError) and inner.errno]
    if not told:
        return type(error).__name__
    # Libraries word the others themselves, with the address.
    if isinstance(told[-1], socket.gaierror | ssl.SSLError):
        return told[-1].strerror or type(told[-1]).__name__
    return os.strerror(told[-1].errno or 0)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
