"""Opens what a command needs, runs its work, and closes everything again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from datastorage.records.deepjson import make_room_for_deep_json

R = TypeVar("R")
T = TypeVar("T")


def with_opened(opening: AbstractAsyncContextManager[R], work: Callable[[R], Awaitable[T]]) -> T:
    """Return the result of the work. Raises the errors of the opening and of the work."""

    async def run() -> T:
        async with opening as opened:
            return await work(opened)

    make_room_for_deep_json()
    return asyncio.run(run())
