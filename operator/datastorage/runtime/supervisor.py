"""Tasks that run for as long as the process does, and the report when one of them ends too early."""

import asyncio
import logging
import traceback
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from datastorage.errors import DataStorageError
from datastorage.resilience.cancellation import end_tasks

T = TypeVar("T")
_log = logging.getLogger(__name__)


def start(name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task. Its name is in logs and errors."""
    return asyncio.create_task(coroutine, name=name)


async def unless_stopped(stop: asyncio.Event, operation: Coroutine[Any, Any, T]) -> T | None:
    """Return the operation's result; None where the stop comes first, and the operation is cancelled."""
    task, stopped = start("start", operation), start("stop", stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await end_tasks([task, stopped])


async def first_ended(tasks: Iterable[asyncio.Task[Any]], stop: asyncio.Event) -> asyncio.Task[Any] | None:
    """Wait for the stop, or for a task that ends before it; return that one."""
    stopped = start("stop", stop.wait())
    try:
        done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stopped in done else next(iter(done))
    finally:
        await end_tasks([stopped])


def ended_unexpectedly(task: asyncio.Task[Any]) -> DataStorageError:
    """Return the error that says that a task has ended, and why; log a bug with its traceback."""
    cause = None if task.cancelled() else task.exception()
    if cause is None:
        return DataStorageError(f"{task.get_name()} ended unexpectedly")
    # Only the first line of the cause is used: the other lines of a database error quote the row.
    why = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
    if not isinstance(cause, DataStorageError):  # a bug: say where
        frames = "".join(traceback.format_tb(cause.__traceback__))
        _log.error("%s ended unexpectedly: %s\n%s", task.get_name(), why, frames)
    return DataStorageError(f"{task.get_name()} ended unexpectedly: {why}")
