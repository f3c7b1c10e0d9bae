"""Growing pauses between attempts at an operation that fails."""

import random


class Backoff:
    """Doubles its pause from one attempt to the next, up to a limit."""

    def __init__(self, first_seconds: float, max_seconds: float) -> None:
        """The first pause is at most ``first_seconds`` long, and every pause at most ``max_seconds``."""
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._seconds = first_seconds

    def next(self) -> float:
        """Return the next pause in seconds, a random time from half the current limit to all of it.

        The jitter keeps replicas that have failed together from trying again together.
        """
        seconds = self._seconds
        self._seconds = min(2 * seconds, self._max_seconds)
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # jitter is no secret

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._seconds = self._first_seconds
