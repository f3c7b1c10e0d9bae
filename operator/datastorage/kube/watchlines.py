"""Takes the lines of a watch's answer that need no handling away, before Kopf reads them.

When a status write moves an object out of the watch's field selector, the API server reports the object as
deleted. There is one such event for every stored object, and Kopf would spend as much time on it as on the
object itself.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp

# The API server writes the type of an event first.
_DELETED: Final = b'{"type":"DELETED"'

IsKnown = Callable[[Any], bool]
"""Returns whether the object of a deletion is already stored with the content that it has in the event."""


class WatchLines:
    """The content of a watch's answer, without the deletions that are known; otherwise like aiohttp's."""

    def __init__(self, content: aiohttp.StreamReader, is_known: IsKnown) -> None:
        self._content = content
        self._is_known = is_known

    def __getattr__(self, name: str) -> Any:
        """Leave everything but the reading of chunks to aiohttp, which uses the content as well."""
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole lines. Kopf calls only this method."""
        begun = b""
        async for data in self._content.iter_chunked(size):
            *lines, begun = (begun + data).split(b"\n")
            kept = [line for line in lines if not (line.startswith(_DELETED) and self._is_known_line(line))]
            if kept:
                yield b"\n".join([*kept, b""])
        if begun:
            yield begun

    def _is_known_line(self, line: bytes) -> bool:
        try:
            return self._is_known(json.loads(line)["object"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return False  # Kopf decides what becomes of it
