"""Bounds the memory that requests and answers take in all, and what one identity takes of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datastorage import metrics
from datastorage.errors import OverloadedError
from datastorage.metrics import Limit


class Room:
    """The room for the bytes of all requests, or of all answers."""

    def __init__(self, most: int, limit: Limit, *, reserved: int = 0) -> None:
        """``most`` is the number of bytes, ``limit`` the label of the metric.

        ``reserved`` bytes of it can't be taken by an identity that has taken all others.
        """
        self._left = most
        self._most_of_one = most - reserved
        self._of: Counter[str] = Counter()
        self._hit = metrics.LIMITS_HIT.labels(limit)

    def take(self, identity: str, count: int) -> None:
        """Take room for some bytes. Raises OverloadedError when there is none."""
        if count > min(self._left, self._most_of_one - self._of[identity]):
            self._hit.inc()
            raise OverloadedError("too many large requests and answers at a time: try again later")
        self._left -= count
        self._of[identity] += count

    def free(self, identity: str, count: int) -> None:
        """Give room back."""
        self._left += count
        self._of[identity] -= count
        if not self._of[identity]:
            del self._of[identity]

    @contextmanager
    def share(self, identity: str) -> Iterator[Callable[[int], None]]:
        """Give a function that takes room; all that it took is free again at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            self.take(identity, count)
            taken += count

        try:
            yield take
        finally:
            self.free(identity, taken)
