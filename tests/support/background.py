"""An asynchronous context that stays open beside a test that is not asynchronous itself."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0


@contextmanager
def in_background(opening: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Open the context in the event loop of another thread, and close it there in the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="background")
    thread.start()
    try:
        opened = asyncio.run_coroutine_threadsafe(opening.__aenter__(), loop)
        value = opened.result(_PATIENCE_SECONDS)
        try:
            yield value
        finally:
            closed = asyncio.run_coroutine_threadsafe(opening.__aexit__(None, None, None), loop)
            closed.result(_PATIENCE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
