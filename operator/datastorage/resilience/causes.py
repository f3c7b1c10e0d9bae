"""Describes why a connection failed, in words that can't contain the secrets of an address."""

import os
import socket
import ssl
from collections.abc import Iterator


def connection_trouble(error: BaseException) -> str:
    """Return the operating system's text for the innermost cause; if there is none, the error's type."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    causes = [inner for inner in _chain(error) if isinstance(inner, OSError) and inner.errno]
    if not causes:
        return type(error).__name__
    if isinstance(causes[-1], socket.gaierror | ssl.SSLError):
        return causes[-1].strerror or type(causes[-1]).__name__
    # The error's own message is not used: libraries write it, and include the address.
    return os.strerror(causes[-1].errno or 0)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
