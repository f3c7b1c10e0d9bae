"""The end of the process: without waiting for threads that hang, and never later than promised."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn, Self

_log = logging.getLogger(__name__)

_EXIT_FAILURE: Final = 1
# The code that a shell reports for a process that SIGTERM has ended.
EXIT_TERMINATED: Final = 128 + signal.SIGTERM
# The last log message gets no more time: the reader of the log may be what is stuck.
_REPORT_SECONDS: Final = 1.0
_MAX_NAMES: Final = 20

_end_requested = threading.Event()


def end_on_sigterm() -> None:
    """Exit on SIGTERM, until the event loop handles it.

    Without a handler, the first process of a container ignores the signal. The exit unwinds the stack, so
    that an embedded PostgreSQL is stopped.
    """

    def end(*_: object) -> NoReturn:
        _end_requested.set()
        sys.exit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, end)


def end_requested() -> bool:
    """Whether SIGTERM has come. A library that was being loaded may have swallowed or renamed the exit."""
    return _end_requested.is_set()


def leave(code: int) -> NoReturn:
    """End the process at once, after flushing its output.

    The interpreter's own exit waits for every thread, and so for each host lookup that hangs: half a minute
    or more. Everything that has to be closed must be closed before.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has gone, or the stream was closed
            stream.flush()
    os._exit(code)


class LastResort:
    """Ends the process when its orderly end takes too long. A thread does this: the event loop may hang.

    Nothing is lost. Committed records are safe, and all others are still in the cluster.
    """

    def __init__(self, seconds: float, *, leave: Callable[[int], object] = leave) -> None:
        """``seconds`` is how long the orderly end may take once it has begun."""
        self._seconds = seconds
        self._leave = leave
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Note that the orderly end is over."""
        self._ended.set()

    def arm(self) -> None:
        """Start the timer, at the first call. Call this in the event loop."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._end, args=(asyncio.get_running_loop(),), name="last-resort", daemon=True
            )
            self._thread.start()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ended.wait(self._seconds):
            return
        reporting = threading.Thread(target=self._report, args=(loop,), daemon=True)
        reporting.start()
        reporting.join(_REPORT_SECONDS)
        self._leave(_EXIT_FAILURE)

    def _report(self, loop: asyncio.AbstractEventLoop) -> None:
        names: list[str] = []
        with suppress(RuntimeError):  # the loop's tasks may change meanwhile
            names = sorted({task.get_name() for task in asyncio.all_tasks(loop)})
        _log.error(
            "The stop took longer than %g s: the process ends now. Committed records are safe; the next "
            "start continues with the rest",
            self._seconds,
            extra={"running": names[:_MAX_NAMES]},
        )
