"""Bounds the memory that requests and answers take in all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datastorage import metrics
from datastorage.errors import OverloadedError


class Room:
    """The room for the bytes of all requests, or of all answers."""

    def __init__(self, most: int, limit: str) -> None:
        """``most`` is the number of bytes, ``limit`` the label of the metric."""
        self._left = most
        self._hit = metrics.LIMITS_HIT.labels(limit)

    def take(self, count: int) -> None:
        """Take room for some bytes. Raises OverloadedError when there is none."""
        if count > self._left:
            self._hit.inc()
            raise OverloadedError("too many large requests and answers at a time: try again later")
        self._left -= count

    def free(self, count: int) -> None:
        """Give room back."""
        self._left += count

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give a function like ``take``; all that it took is free again at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            self.take(count)
            taken += count

        try:
            yield take
        finally:
            self.free(taken)
