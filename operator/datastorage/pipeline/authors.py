"""Takes the names of authors from objects, if the API server itself has written them there.

Anybody may write the annotation while the policy that stamps it is not in force. So a name counts only if the
policy was in force from before the object was created until after it was read. Otherwise the author is
unknown.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from datastorage.errors import ClusterUnavailableError
from datastorage.pipeline.item import WorkItem
from datastorage.resilience.backoff import Backoff
from datastorage.resilience.worker import repeat

_log = logging.getLogger(__name__)

_LEAKY: Final = (
    "an object came without a name although the policy is in force, so an API server does not apply it: is "
    "its version older than 1.36, or its admission plugin MutatingAdmissionPolicy disabled? When that is "
    "mended, delete the policy and apply manifests/components/recorded-by again"
)


class Answer(Protocol):
    """Since when the policy is in force, or why it is not (kube/recordedbypolicy.py)."""

    @property
    def since(self) -> datetime | None: ...
    @property
    def problem(self) -> str | None: ...


@dataclass(frozen=True)
class Pace:
    """The times around a look at the policy."""

    margin_seconds: float = 10.0
    """Between the creation of the policy and that of the first object that it counts for. The API servers
    notice a new policy within a second or two, and their clocks may differ a little."""
    patience_seconds: float = 5.0
    """For an API server that does not answer. Records wait in memory meanwhile, those of requests too."""
    retry_seconds: float = 0.2
    interval_seconds: float = 60.0
    """Between two looks while there is nothing to store, so that a problem is reported before it matters."""


@dataclass(frozen=True, slots=True)
class _Look:
    """An answer about the policy, and when it was asked for, in monotonic seconds."""

    at: float
    since: datetime | None
    problem: str | None


class Authors:
    """Looks at the policy when it has to, and gives records their authors."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Answer]],
        *,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``look`` returns whether the policy is in force. ``clock`` is in seconds."""
        self._look_now = look
        self._pace = pace
        self._margin = timedelta(seconds=pace.margin_seconds)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: _Look | None = None
        self._away_since: float | None = None
        # The start of a policy that has let an object through without a stamp.
        self._leaky: datetime | None = None
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """Return why authors are unknown at present, or None."""
        return self._problem

    async def run(self) -> None:
        """Look at the policy at intervals, until cancelled."""
        await repeat(self._check, interval_seconds=self._pace.interval_seconds)

    async def _check(self) -> None:
        await self._look(self._clock())

    async def named(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Return the items with the authors of their records. Raises nothing."""
        stamps = [item.stamp for item in items if item.stamp is not None]
        if not stamps:
            return items
        # Only a look that began after the last of these objects was read says something about all of them.
        look = await self._look(max(stamp.read_at for stamp in stamps))
        if look.since is None:
            return items
        first = look.since + self._margin
        genuine = [item.stamp if item.record.key.created_at > first else None for item in items]
        if any(stamp is not None and stamp.author is None for stamp in genuine):
            self._leaky = look.since
            self._note(_LEAKY)
        if self._leaky == look.since:
            return items
        return [
            item if stamp is None else replace(item, record=replace(item.record, recorded_by=stamp.author))
            for item, stamp in zip(items, genuine, strict=True)
        ]

    async def _look(self, read_at: float) -> _Look:
        """Return the answer of a look that began no earlier than ``read_at``."""
        async with self._lock:
            if self._last is None or self._last.at < read_at:
                self._last = await self._look_until_answered()
                leaks = self._last.since is not None and self._last.since == self._leaky
                self._note(_LEAKY if leaks else self._last.problem)
            return self._last

    async def _look_until_answered(self) -> _Look:
        pauses = Backoff(self._pace.retry_seconds, self._pace.patience_seconds)
        while True:
            at = self._clock()
            try:
                answer = await self._look_now()
            except ClusterUnavailableError as error:
                # The patience is for the whole outage, not for each batch in it.
                self._away_since = at if self._away_since is None else self._away_since
                if self._clock() - self._away_since >= self._pace.patience_seconds:
                    return _Look(at, None, str(error))
            else:
                self._away_since = None
                return _Look(at, answer.since, answer.problem)
            await asyncio.sleep(pauses.next())

    def _note(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        if problem is not None:
            _log.warning("The authors of records are unknown", extra={"error": problem})
        else:
            _log.info("The authors of records are known again")
        self._problem = problem
