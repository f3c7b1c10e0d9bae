"""Bounds what one identity may ask for, so that one that floods the API leaves room for the others.

Each identity has a bucket of tokens, which fills at a steady rate up to its burst. A request takes a token
after its sender was authenticated, and the records of a batch take more. Tokens that others present can't be
taken: the bucket belongs to the name that the API server gave for the token.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from datastorage import metrics
from datastorage.errors import TooManyRequestsError
from datastorage.metrics import Limit

ENDINGS: Final[ContextVar[list[Callable[[], None]] | None]] = ContextVar("endings", default=None)
"""Functions to call at the end of the request that is being served; None outside of a request."""


@dataclass(frozen=True, slots=True)
class AllowanceLimits:
    """The allowance of each identity."""

    tokens_per_second: float = 2_000.0
    """A replica on one core serves fewer in all, so this stops only a client that is out of control."""
    burst: float = 4_000.0
    """Tokens of an identity that has been quiet."""
    records_per_token: int = 5
    """A record of a batch costs about a fifth of the work of a request with one record."""
    at_once: int = 200
    """Requests of one identity under way: half of all that the API serves at a time."""
    identities: int = 10_000
    """Buckets in memory, of about 200 bytes. A new one takes the place of the one that was used longest ago,
    whose identity then begins with a full one. So there are more of them than one archive has clients."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Allowances:
    """The tokens of all identities."""

    def __init__(
        self, limits: AllowanceLimits = AllowanceLimits(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` is in seconds."""
        self._limits = limits
        self._clock = clock
        self._buckets: LRUCache[str, _Bucket] = LRUCache(limits.identities)
        self._under_way: Counter[str] = Counter()
        self._rate = metrics.LIMITS_HIT.labels(Limit.RATE)
        self._at_once = metrics.LIMITS_HIT.labels(Limit.REQUESTS_OF_ONE_IDENTITY)

    def admit(self, identity: str) -> None:
        """Take a token, and a place until the end of the request. Raises TooManyRequestsError."""
        bucket = self._filled(identity)
        if bucket.tokens < 1:
            self._rate.inc()
            seconds = max(1, math.ceil((1 - bucket.tokens) / self._limits.tokens_per_second))
            raise TooManyRequestsError(
                f"{identity} sends more than {self._limits.tokens_per_second:g} requests a second: send "
                "fewer, or raise DATASTORAGE_API_REQUESTS_PER_SECOND",
                retry_after_seconds=seconds,
            )
        if self._under_way[identity] >= self._limits.at_once:
            self._at_once.inc()
            raise TooManyRequestsError(
                f"{identity} has {self._limits.at_once} requests under way: wait for their answers",
                retry_after_seconds=1,
            )
        bucket.tokens -= 1
        endings = ENDINGS.get()
        if endings is not None:
            self._under_way[identity] += 1
            endings.append(lambda: self._end(identity))

    def charge(self, identity: str, records: int) -> None:
        """Take the tokens for the records of a batch, beside the first one.

        A batch that was admitted is not refused for its size. It may leave less than no tokens, so that the
        next requests have to wait.
        """
        more = max(0, math.ceil(records / self._limits.records_per_token) - 1)
        self._filled(identity).tokens -= more

    def _filled(self, identity: str) -> _Bucket:
        now, limits = self._clock(), self._limits
        bucket = self._buckets.get(identity)
        if bucket is None:
            bucket = self._buckets[identity] = _Bucket(limits.burst, now)
        gained = (now - bucket.filled_at) * limits.tokens_per_second
        bucket.tokens = min(limits.burst, bucket.tokens + gained)
        bucket.filled_at = now
        return bucket

    def _end(self, identity: str) -> None:
        self._under_way[identity] -= 1
        if not self._under_way[identity]:
            del self._under_way[identity]
