"""Exports of a server's archive: the lines of query/export.py, as they come over HTTP."""

from collections.abc import AsyncGenerator, Mapping
from typing import Final

from datastorage.client.archive import conditions_of
from datastorage.client.server import Server
from datastorage.query.exportline import RECORD_MEMBER
from datastorage.query.filters import Filter

_PATH: Final = "/api/v1/export"
# It stands at once before the record, and quotes within a string are escaped.
_CHANGED: Final = b'"intact":false,'


class RemoteExport:
    """One export under way."""

    def __init__(self, server: Server, query: Mapping[str, str]) -> None:
        self._server = server
        self._query = query
        self._line = b""
        self.changed = 0
        """Records so far that are not as they were stored."""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the lines as they come.

        Raises TransientError where the connection breaks, and the errors of the request before the first.
        """
        async for piece in self._server.stream(_PATH, self._query):
            self._count(piece)
            yield piece

    def _count(self, piece: bytes) -> None:
        *lines, self._line = (self._line + piece).split(b"\n")
        self.changed += sum(_CHANGED in line.partition(RECORD_MEMBER)[0] + b"," for line in lines)


class RemoteExports:
    """Begins exports of a server's archive."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def begin(self, filter: Filter, *, token: str | None) -> RemoteExport:  # noqa: A002  # as in query
        """Return an export of what is committed now; with a token, of what comes after it."""
        type_, query = conditions_of(filter)
        resumed = {} if token is None else {"resumeToken": token}
        return RemoteExport(self._server, {**query, "type": type_, **resumed})
