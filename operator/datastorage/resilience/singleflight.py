"""Does a piece of work once for everybody who asks for it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from datastorage.resilience.cancellation import end_tasks

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class NoResultError(Exception):
    """The work has no result in time, or was ended."""


class SingleFlight(Generic[K, V]):
    """Pieces of work under way, each by its key."""

    def __init__(self, name: str) -> None:
        """``name`` is that of the tasks."""
        self._name = name
        self._under_way: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    async def do(self, key: K, work: Callable[[], Awaitable[V]], *, seconds: float | None = None) -> V:
        """Return the result of the work under way for a key, or else of ``work``.

        If the caller is cancelled, the work goes on, because others may wait for it. Raises what the work
        raises, and NoResultError after ``seconds``.
        """
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._run(key, work), name=self._name)
            self._under_way[key] = task
            task.add_done_callback(_look_at_error)
        # Unlike await, this neither cancels the work nor mistakes its end by close() for our own.
        await asyncio.wait({task}, timeout=seconds)
        if not task.done() or task.cancelled():
            raise NoResultError
        return task.result()

    async def close(self) -> None:
        """End all work."""
        await end_tasks(list(self._under_way.values()))

    async def _run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        try:
            return await work()
        finally:
            # Before anybody sees the result: an error must not be given to a later caller.
            del self._under_way[key]


def _look_at_error(task: "asyncio.Task[Any]") -> None:
    """Keep asyncio from logging an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
