"""Divides work: into halves if a server refuses all of it at once, or into chunks of bounded size."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from datastorage.errors import MissingRightsError, RecordRefusedError, WorkRefusedError
from datastorage.resilience.breaker import Breaker

T = TypeVar("T")
R = TypeVar("R")

OnRefused = Callable[[T, RecordRefusedError | WorkRefusedError], None]
"""Called with an item that is refused by itself, and the reason."""


async def in_halves(
    breaker: Breaker,
    work: Callable[[Sequence[T]], Awaitable[R]],
    items: Sequence[T],
    on_refused: OnRefused[T] | None = None,
) -> list[R]:
    """Do work on the items, in halves if it is refused; return the result of each piece.

    The call waits while the dependency is away. An item that is refused by itself goes to ``on_refused``;
    without that, it is repeated until it succeeds.
    """

    async def judged(chunk: Sequence[T]) -> R:
        try:
            return await breaker.judge(partial(work, chunk))
        except MissingRightsError:  # a smaller piece would also be refused
            return await breaker.run(partial(work, chunk))
        except WorkRefusedError:
            if len(chunk) > 1 or on_refused is not None:
                raise
            return await breaker.run(partial(work, chunk))

    return await in_halves_without_breaker(judged, items, on_refused)


async def in_halves_without_breaker(
    work: Callable[[Sequence[T]], Awaitable[R]], items: Sequence[T], on_refused: OnRefused[T] | None
) -> list[R]:
    """Do work as ``in_halves`` does, for callers that must not wait; return the result of each piece.

    Raises TransientError while a server is away; without ``on_refused``, also the error of an item that is
    refused by itself.
    """
    if not items:
        return []
    try:
        return [await work(items)]
    except (RecordRefusedError, WorkRefusedError) as error:
        if len(items) == 1:
            if on_refused is None:
                raise
            on_refused(items[0], error)
            return []
    middle = len(items) // 2
    first = await in_halves_without_breaker(work, items[:middle], on_refused)
    return [*first, *await in_halves_without_breaker(work, items[middle:], on_refused)]


async def read_page(breaker: Breaker, read: Callable[[int], Awaitable[R]], limit: int) -> R:
    """Return the result of ``read`` for up to ``limit`` rows, or for fewer if that many are refused."""
    while limit > 1:
        try:
            return await breaker.judge(partial(read, limit))
        except MissingRightsError:
            break
        except WorkRefusedError:
            limit //= 2
    return await breaker.run(partial(read, 1))


def chunks(items: Iterable[T], size_of: Callable[[T], int], max_size: int) -> Iterator[list[T]]:
    """Yield the items in order, in chunks of at most ``max_size``; a larger item is a chunk of its own."""
    chunk: list[T] = []
    size = 0
    for item in items:
        if chunk and size + size_of(item) > max_size:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += size_of(item)
    if chunk:
        yield chunk
