"""Runs long work that may be stopped at any point and continued later."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import typer

from datastorage.cli.output import note
from datastorage.runtime.processend import EXIT_TERMINATED

T = TypeVar("T")

# The code that a shell reports for a process that SIGINT has ended.
_EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run the work and return its result; Ctrl-C and SIGTERM cancel it, so that it closes what it has opened.

    A stop is noted, and exits with the code that a shell gives a process which the signal has ended.
    """
    try:
        return asyncio.run(_cancelled_by_sigterm(work))
    except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
        note("stopped; all results so far are kept: run the same command again to continue")
        interrupted = isinstance(stopped, KeyboardInterrupt)
        raise typer.Exit(_EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED) from None


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
