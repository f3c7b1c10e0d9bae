"""Claims that are checked: each has a name, an expectation and a deadline."""

import time
from collections.abc import Callable
from typing import NamedTuple

import asyncpg

from examples.demo.narrator import Narrator
from harness.controlplane import KubectlError

POLL_INTERVAL = 0.2  # seconds between two looks
PATIENCE = 60.0  # seconds; everything here takes less than 1 on an idle machine


class Seen(NamedTuple):
    """The result of a look, and whether it is the expected one."""

    right: bool
    what: str


class CheckFailedError(Exception):
    """A claim was not true in time."""

    def __init__(self, name: str, expected: str, seen: str, seconds: float) -> None:
        super().__init__(f"{name}: expected {expected}; saw {seen}")
        self.name = name
        self.expected = expected
        self.seen = seen
        self.seconds = seconds


class Checks:
    """Looks until a claim is true, and counts.

    `still_running` is called before each look; it raises when a program that is needed has ended.
    """

    def __init__(self, narrator: Narrator, still_running: Callable[[], None]) -> None:
        self._narrator = narrator
        self._still_running = still_running
        self.passed = 0

    def that(self, name: str, expected: str, look: Callable[[], Seen], *, within: float = PATIENCE) -> str:
        """Look until it is right, print it, and return what was seen.

        Raises:
            CheckFailedError: it was not right within that many seconds.
        """
        seen = self.wait(name, expected, look, within=within)
        self._pass(name, seen)
        return seen.what

    def wait(self, name: str, expected: str, look: Callable[[], Seen], *, within: float = PATIENCE) -> Seen:
        """Look until it is right, and return what was seen, without counting it as a check.

        Raises:
            CheckFailedError: it was not right within that many seconds.
        """
        started = time.monotonic()
        with self._narrator.waiting(name) as report:
            while not (seen := self._look(look)).right:
                elapsed = time.monotonic() - started
                if elapsed >= within:
                    raise CheckFailedError(name, expected, seen.what, elapsed)
                report(seen.what)
                time.sleep(POLL_INTERVAL)
        return seen

    def claim(self, name: str, expected: str, seen: Seen) -> None:
        """Check something that has been looked at already.

        Raises:
            CheckFailedError: it is not right.
        """
        if not seen.right:
            raise CheckFailedError(name, expected, seen.what, 0.0)
        self._pass(name, seen)

    def _pass(self, name: str, seen: Seen) -> None:
        self._narrator.passed(name, seen.what)
        self.passed += 1

    def _look(self, look: Callable[[], Seen]) -> Seen:
        self._still_running()
        try:
            return look()
        except (KubectlError, asyncpg.PostgresError, OSError) as error:
            return Seen(right=False, what=str(error).strip())
