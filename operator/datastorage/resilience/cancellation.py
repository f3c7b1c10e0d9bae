"""Cancellation that is not lost, and tasks that end when they are told to."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

_log = logging.getLogger(__name__)

# More than any part takes to end in order. Kopf, the slowest, gives its queues 2 s.
_CANCEL_SECONDS: Final = 3.0
_CANCEL_TRIES: Final = 2


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Let a task that is cancelled in here end as cancelled, whatever becomes of the cleaning up.

    Giving back a connection whose server is silent fails, and the task would go on with that error, and try
    again for ever. And ``wait_for`` of Python 3.11, which libraries use, may swallow a cancellation.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    except Exception as error:
        if task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


async def end_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end. One that swallows its cancellation, as ``wait_for`` of Python 3.11
    may, is cancelled again; one that does not end all the same is left, and goes with the process.
    """
    running = set(tasks)
    for _ in range(_CANCEL_TRIES):
        if not running:
            break
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_SECONDS)
    for task in running:
        _log.error("%s does not end and is left", task.get_name())
    await asyncio.gather(*(task for task in tasks if task.done()), return_exceptions=True)
