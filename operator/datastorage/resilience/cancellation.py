"""Keeps a cancellation from being swallowed, and ends tasks."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

_log = logging.getLogger(__name__)

# More than any component takes to end in an orderly way. Kopf, the slowest, gives its queues 2 s.
_SECONDS_A_TRY: Final = 3.0
# The first cancellation may be swallowed, but the second one is not.
_TRIES: Final = 2


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Let a task that is cancelled within the block end as cancelled, whatever its clean-up raises.

    Returning a connection of a silent server to its pool raises an error. Without this block, that error
    would replace the cancellation, and the task would try again for ever. Also ``wait_for`` of Python 3.11,
    which libraries use, may swallow a cancellation.
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


async def end_tasks(tasks: Sequence[asyncio.Task[Any]], *, seconds_a_try: float = _SECONDS_A_TRY) -> None:
    """Cancel tasks and wait for their end.

    A task that swallows its cancellation, as ``wait_for`` of Python 3.11 may, is cancelled again. A task that
    still does not end is left running until the process ends.
    """
    running = set(tasks)
    for _ in range(_TRIES):
        if not running:
            break
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=seconds_a_try)
    for task in running:
        _log.error("The task %s does not end and is left running", task.get_name())
    await asyncio.gather(*(task for task in tasks if task.done()), return_exceptions=True)
