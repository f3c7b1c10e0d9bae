"""Commands that wait for a server which is not there yet."""

import math
import time
from collections.abc import Callable
from typing import Final, TypeVar

from datastorage.cli.output import note
from datastorage.errors import TransientError

T = TypeVar("T")

_PAUSE_SECONDS: Final = 1.0
# A line about a wait that goes on for the same reason.
_LINE_SECONDS: Final = 15.0


def when_it_serves(operation: Callable[[], T], seconds: float) -> T:
    """Return what an operation returns, trying again for so long while a server can't be reached.

    The last try begins within the time. Raises what that one raises, and at once what waiting does not cure.
    """
    deadline = time.monotonic() + seconds
    said, quiet_until = "", 0.0
    while True:
        try:
            return operation()
        except TransientError as error:
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                raise
            if str(error) != said or now >= quiet_until:
                said, quiet_until = str(error), now + _LINE_SECONDS
                note(f"Waiting for up to {math.ceil(left)} s: {error}")
            time.sleep(min(_PAUSE_SECONDS, left))
