"""Takes in records that come with a request, and waits for their commit.

They go the way of the cluster's records, through the same intake and in the same batches. Nothing is
acknowledged that is not committed: a request that can't wait any longer gets an error, and may be sent again
under its identifier.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from datastorage.errors import OverloadedError, StorageAwayError, TransientError
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import Outcome, WorkItem
from datastorage.pipeline.measuring import count_failures
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.tracing import NO_TRACES, Traces, current_request


@dataclass(frozen=True)
class Pace:
    """How long a request waits."""

    commit_seconds: float = 8.0
    """For the commit of its records. A commit takes tens of milliseconds; a server that was lost in the
    middle of one may take this long to be missed, and clients give up after ten seconds or more."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No outcome of a record: it is not stored now, or that is not known; the reason says which."""

    reason: str


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """The request that a record came from; the future is its outcome."""

    outcome: asyncio.Future[Outcome | Unknown]

    async def committed(self, outcome: Outcome) -> None:
        """Answer the request, if it still waits."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def given_up(self, reason: str) -> None:
        """Answer that the record is not stored, and not kept among the rejected ones either."""
        if not self.outcome.done():
            self.outcome.set_result(Unknown(f"the record is not stored: {reason}"))


class Submissions:
    """The entrance for records of requests."""

    def __init__(
        self,
        *,
        intake: Intake,
        groups: Groups,
        breakers: Sequence[Breaker],
        pace: Pace = Pace(),
        traces: Traces = NO_TRACES,
    ) -> None:
        """``breakers`` are those that a commit waits for: of PostgreSQL, and of the tables."""
        self._intake = intake
        self._groups = groups
        self._breakers = breakers
        self._pace = pace
        self._traces = traces
        self._closed: str | None = "the operator is starting"

    def open(self) -> None:
        """Take records from now on: somebody commits them."""
        self._closed = None

    def close(self) -> None:
        """Refuse all further records: the process stops."""
        self._closed = "the operator is stopping"

    async def store(self, records: Sequence[Record]) -> list[Outcome | Unknown]:
        """Return the outcome of each record once it is committed, or Unknown where that takes too long.

        Raises StorageAwayError when PostgreSQL is known not to serve, OverloadedError when there is no room,
        and another TransientError when no record was committed in time: after that, some of the records may
        be stored all the same.
        """
        self._check(records)
        loop = asyncio.get_running_loop()
        outcomes: list[asyncio.Future[Outcome | Unknown]] = [loop.create_future() for _ in records]
        taken_in = self._traces.taken_in(current_request(), is_single=len(records) == 1)
        self._intake.add(
            *(
                WorkItem(record, RequestOrigin(outcome), taken_in=taken_in)
                for record, outcome in zip(records, outcomes, strict=True)
            )
        )
        await asyncio.wait(outcomes, timeout=self._pace.commit_seconds)
        if any(outcome.done() for outcome in outcomes):
            # Committed records are acknowledged even if others of the request still wait.
            return [
                outcome.result() if outcome.done() else Unknown(self._not_known()) for outcome in outcomes
            ]
        raise TransientError(self._not_known())

    async def store_whole(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store all of the records in one transaction, or none; return what the archive now holds for each.

        Raises GroupRefusedError if one of them can't be stored, and otherwise the errors of ``store``.
        """
        self._check(records)
        try:
            async with asyncio.timeout(self._pace.commit_seconds):
                return await self._groups.store(records)
        except TimeoutError:
            raise TransientError(self._not_known()) from None

    async def finish_groups(self) -> None:
        """Wait for the groups under way, at most as long as their requests do. They are not in the intake."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.commit_seconds):
                await self._groups.finished()

    def _check(self, records: Sequence[Record]) -> None:
        """Raise TransientError or OverloadedError if no records can be taken now, and count them."""
        if (refusal := self._refusal()) is not None:
            count_failures(records)
            raise refusal

    def _refusal(self) -> TransientError | None:
        if self._closed is not None:
            return TransientError(f"{self._closed}: send the request again")
        if (reason := self._outage()) is not None:
            return StorageAwayError(f"PostgreSQL can't store it now: {reason}")
        if not self._intake.has_room:
            return OverloadedError("too many records wait to be stored: send the request again later")
        return None

    def _not_known(self) -> str:
        why = self._outage() or "the commit takes too long"
        return f"it is not known yet whether the record is stored ({why}): send the same request again"

    def _outage(self) -> str | None:
        """Return why commits are held back, or None while they are not."""
        return next((breaker.reason for breaker in self._breakers if not breaker.serving), None)
