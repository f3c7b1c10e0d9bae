"""Lets a command wait for a server that can't be reached yet."""

import math
import time
from collections.abc import Callable
from typing import Final, TypeVar

from datastorage.cli.output import note
from datastorage.errors import TransientError

T = TypeVar("T")

# Between two tries: short for a person who waits, long for a server that starts.
_PAUSE_SECONDS: Final = 1.0
# Between two lines about the same reason: enough to see that the command still waits.
_LINE_SECONDS: Final = 15.0


def when_it_serves(operation: Callable[[], T], seconds: float, *, pause_seconds: float = _PAUSE_SECONDS) -> T:
    """Return the result of an operation, tried again for ``seconds`` while a server can't be reached.

    The last try begins within the time. Raises TransientError from the last try, and at once any error that
    waiting does not cure.
    """
    deadline = time.monotonic() + seconds
    reason, quiet_until = "", 0.0
    while True:
        try:
            return operation()
        except TransientError as error:
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                raise
            if str(error) != reason or now >= quiet_until:
                reason, quiet_until = str(error), now + _LINE_SECONDS
                note(f"Waiting for up to {math.ceil(left)} s: {error}")
            time.sleep(min(pause_seconds, left))
