"""Work that is divided for as long as a server refuses it while it serves others."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from datastorage.errors import MissingRightsError, WorkRefusedError
from datastorage.resilience.breaker import Breaker

T = TypeVar("T")
R = TypeVar("R")


async def by_parts(
    breaker: Breaker,
    work: Callable[[Sequence[T]], Awaitable[R]],
    items: Sequence[T],
    on_refused: Callable[[T, WorkRefusedError], None] | None = None,
) -> list[R]:
    """Do a piece of work on the items, and return what came of each part of them.

    It waits while the dependency is away, and for an item that is refused by itself unless ``on_refused``
    takes it.
    """
    try:
        return [await breaker.judge(partial(work, items))]
    except MissingRightsError:  # less of it would be refused as well
        return [await breaker.run(partial(work, items))]
    except WorkRefusedError as error:
        if len(items) <= 1:
            if on_refused is None or not items:
                return [await breaker.run(partial(work, items))]
            on_refused(items[0], error)
            return []
    middle = len(items) // 2
    first = await by_parts(breaker, work, items[:middle], on_refused)
    return [*first, *await by_parts(breaker, work, items[middle:], on_refused)]


async def page_of(breaker: Breaker, read: Callable[[int], Awaitable[R]], most: int) -> R:
    """Read up to ``most`` rows, or fewer where so many are refused."""
    while most > 1:
        try:
            return await breaker.judge(partial(read, most))
        except MissingRightsError:
            break
        except WorkRefusedError:
            most //= 2
    return await breaker.run(partial(read, 1))
