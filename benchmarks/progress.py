"""Says what is happening while long steps run: on stderr, so that stdout has the results alone."""

import sys
import time
from typing import Final

_INTERVAL_SECONDS: Final = 5.0


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Reports how far a counted step has come, at most every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._started = time.monotonic()
        self._reported = self._started

    def update(self, done: int) -> None:
        """Report, if it is time to."""
        now = time.monotonic()
        if now - self._reported < _INTERVAL_SECONDS:
            return
        self._reported = now
        rate = done / (now - self._started)
        say(f"    {self._what}: {done} of {self._total}, {rate:.0f}/s")
