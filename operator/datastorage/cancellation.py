"""What a cancelled task must not lose: that it is cancelled."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


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
