"""Opens what a command needs, runs its work, and closes everything again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

from datastorage.errors import ConfigurationError, MissingRightsError
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


@contextmanager
def as_service_role() -> Iterator[None]:
    """Do work that needs the rights of the service role. Raises ConfigurationError if any are missing."""
    try:
        yield
    except MissingRightsError as error:
        raise ConfigurationError(f"{error}: run this as the service role") from error
