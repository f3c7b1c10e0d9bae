"""Spreads the Leases of the shards evenly over the processes that are there.

Each process sees the holders of all Leases. One that holds fewer than another asks it for one, until their
numbers differ by one at most.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from datastorage.pipeline.lease import Lease
from datastorage.resilience.worker import repeat


@dataclass(frozen=True)
class Pace:
    """How often the numbers are compared."""

    interval_seconds: float = 5.0
    """One Lease moves at a time: its objects are listed again by the process that gets it."""
    patience_seconds: float = 15.0
    """How long a request for a Lease may take: the holder answers it when it renews the Lease, and this
    process sees that with its next look. Asking for another meanwhile would move too many Leases."""


class Balance:
    """Asks other processes for Leases."""

    def __init__(
        self,
        leases: Sequence[Lease],
        identity: str,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity`` is the one under which this process holds the Leases."""
        self._leases = leases
        self._identity = identity
        self._pace = pace
        self._clock = clock
        self._asked: tuple[Lease, str, float] | None = None
        """The Lease that was asked for last, who held it, and until when to wait for it."""

    async def run(self) -> NoReturn:
        """Compare the numbers until cancelled."""
        await repeat(self.compare, interval_seconds=self._pace.interval_seconds)

    async def compare(self) -> None:
        """Ask for one Lease of the process that holds most, if it holds at least two more than this one."""
        holders = [lease.holder for lease in self._leases]
        if not all(holders):
            return  # a Lease without a holder is taken soon, which changes the numbers
        if self._is_asking():
            return
        counts = Counter(holders)
        (busiest, most), *_ = counts.most_common(1)
        if most >= counts[self._identity] + 2:
            # Chosen at random: several processes may ask at the same moment.
            theirs = [lease for lease in self._leases if lease.holder == busiest]
            chosen = random.choice(theirs)  # noqa: S311  # the choice is no secret
            self._asked = chosen, busiest, self._clock() + self._pace.patience_seconds
            if not await chosen.ask():
                self._asked = None

    def _is_asking(self) -> bool:
        """Return whether a request of this process may still be granted."""
        if self._asked is None:
            return False
        lease, holder, until = self._asked
        return lease.holder == holder and self._clock() < until
