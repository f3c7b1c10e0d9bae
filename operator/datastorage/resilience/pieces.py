"""Long work in the event loop, with room for other work in between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

# Bytes that are worked on without a pause; some milliseconds of JSON.
_BYTES: Final = 256 * 1024


async def in_pieces(items: Iterable[T], size: Callable[[T], int]) -> AsyncIterator[T]:
    """Yield the items; others may run after some bytes of them.

    A generator makes each item only when its turn comes.
    """
    done = 0
    for item in items:
        yield item
        done += size(item)
        if done >= _BYTES:
            done = 0
            await asyncio.sleep(0)
