"""Takes the lines of a watch's answer that need no handling away, and gives Kopf large ones one at a time.

When a status write moves an object out of the watch's field selector, the API server reports the object as
deleted. There is one such event for every stored object, and Kopf would spend as much time on it as on the
object itself. The same holds for the objects of other shards, which most API servers send to every shard.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import aiohttp

# The API server writes the type of an event first.
_DELETED: Final = b'{"type":"DELETED"'
_ABOUT_OBJECTS: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})
# A line of this many bytes may take 24 times as much when it is parsed, which is 3 MiB.
_LARGE_BYTES: Final = 128 * 1024
# Turns of the event loop that Kopf may take from a line to its handler. It takes four of them.
_TURNS_TO_HANDLER: Final = 20

IsKnown = Callable[[Any], bool]
"""Returns whether the object of a deletion is already stored with the content that it has in the event."""
IsSelected = Callable[[Any], bool]
"""Returns whether an object belongs to the shard."""


class WatchLines:
    """The content of a watch's answer, without the deletions that are known; otherwise like aiohttp's."""

    def __init__(
        self, content: aiohttp.StreamReader, is_known: IsKnown, is_selected: IsSelected | None = None
    ) -> None:
        """Without ``is_selected``, all objects belong to the shard."""
        self._content = content
        self._is_known = is_known
        self._is_selected = is_selected

    def __getattr__(self, name: str) -> Any:
        """Leave everything but the reading of chunks to aiohttp, which uses the content as well."""
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole lines. Kopf calls only this method."""
        begun = b""
        async for data in self._content.iter_chunked(size):
            *lines, begun = (begun + data).split(b"\n")
            kept = [line for line in lines if not self._needs_no_handling(line)]
            for group in _groups(kept):
                yield b"\n".join([*group, b""])
                if _is_large(group[0]):
                    # Kopf does not wait for its handlers. Without a pause, it would parse the next large
                    # object before the handler has seen this one.
                    for _ in range(_TURNS_TO_HANDLER):
                        await asyncio.sleep(0)
        if begun:
            yield begun

    def _needs_no_handling(self, line: bytes) -> bool:
        is_deletion = line.startswith(_DELETED)
        if not is_deletion and self._is_selected is None:
            return False
        try:
            event = json.loads(line)
            return self._is_of_another_shard(event) or (is_deletion and self._is_known(event["object"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            return False  # Kopf decides what becomes of it

    def _is_of_another_shard(self, event: Any) -> bool:
        selected = self._is_selected
        return selected is not None and event["type"] in _ABOUT_OBJECTS and not selected(event["object"])


def _groups(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Divide lines into groups, in their order. A large line has a group of its own."""
    small: list[bytes] = []
    for line in lines:
        if not _is_large(line):
            small.append(line)
            continue
        if small:
            yield small
            small = []
        yield [line]
    if small:
        yield small


def _is_large(line: bytes) -> bool:
    return len(line) > _LARGE_BYTES
