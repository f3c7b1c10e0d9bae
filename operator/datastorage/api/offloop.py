"""Work on large requests, apart from the event loop: it would keep everything else waiting."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

from datastorage.records.deepjson import STACK_BYTES

T = TypeVar("T")

# Bytes of a request; reading and checking this much takes some milliseconds.
_SMALL: Final = 64 * 1024


def is_small(size: int) -> bool:
    """Return whether work on this many bytes may be done in the event loop."""
    return size <= _SMALL


async def run_apart(size: int, work: Callable[[], T]) -> T:
    """Return the result of work on this many bytes: done at once if they are few, otherwise in a thread."""
    if is_small(size):
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread(), work)


@cache
def _thread() -> ThreadPoolExecutor:
    # A single thread, so that only one request's values are in memory at a time, and the loop competes with
    # one thread only. It needs as large a stack as the main thread, for JSON of the same depth.
    usual = threading.stack_size(STACK_BYTES)
    try:
        made = ThreadPoolExecutor(1, "large-requests")
        made.submit(int).result()  # starts the thread
        return made
    finally:
        threading.stack_size(usual)
