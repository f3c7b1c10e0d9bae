"""Questions that a standby answers, and the primary where the standby can't."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

from datastorage import metrics
from datastorage.errors import (
    EmbedderUnavailableError,
    InvalidQueryError,
    PoolExhaustedError,
    RecordNotFoundError,
    TransientError,
    WorkRefusedError,
)
from datastorage.metrics import SkipReason
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.archivesummary import ArchiveSummary
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.listedrecord import ListPage
from datastorage.query.questions import ArchiveQueries
from datastorage.query.searchresult import SearchResult
from datastorage.query.standby import Standby
from datastorage.query.targethistory import TargetHistory
from datastorage.query.timeline import Timeline
from datastorage.storage.criteria import Scope

T = TypeVar("T")
_Question = Callable[[ArchiveQueries], Awaitable[T]]


@dataclass
class Freshness:
    """How old the answer to one request may be."""

    lag_seconds: float | None = None
    """The answer has everything that was committed longer ago than this. None if that is not known."""


FRESHNESS: Final[ContextVar[Freshness | None]] = ContextVar("freshness", default=None)
"""Filled in by the questions of a request, for the header of its answer."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many questions the primary takes over."""

    on_primary: int = 2
    """At a time. A standby is there so that questions don't slow down the writes, and that still counts while
    it is away: the API answers fewer questions then."""
    patience_seconds: float = 1.0
    """A question waits no longer for its turn at the primary."""


class StandbyQueries:
    """The questions of the REST API to a standby.

    The primary answers a question when the standby is away or has cancelled it, and when the standby doesn't
    have a record that is asked for by its uid: it may just have been stored. All methods raise the errors of
    ArchiveQueries, and TransientError, which names the standby, when the primary has no room.
    """

    def __init__(
        self, standby: ArchiveQueries, primary: ArchiveQueries, state: Standby, pace: Pace = Pace()
    ) -> None:
        self._standby = standby
        self._primary = primary
        self._state = state
        self._pace = pace
        self._room = asyncio.Semaphore(pace.on_primary)

    async def list_page(
        self,
        filter: Filter,  # noqa: A002
        *,
        limit: int,
        cursor: str | None,
        with_content: bool,
        scope: Scope,
    ) -> ListPage:
        """Return a page of records."""
        return await self._ask(
            lambda each: each.list_page(
                filter, limit=limit, cursor=cursor, with_content=with_content, scope=scope
            ),
            has_cursor=bool(cursor),
        )

    async def get(
        self, uid: str, generation: int | None, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord:
        """Return a record, however lately it was stored."""
        return await self._ask(lambda each: each.get(uid, generation, kind, scope=scope))

    async def get_by_name(
        self, namespace: str, name: str, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord:
        """Return the newest record of a name; the primary is asked where the standby has none."""
        return await self._ask(lambda each: each.get_by_name(namespace, name, kind, scope=scope))

    async def history(self, uid: str, kind: str | None, *, scope: Scope) -> tuple[ArchivedRecord, ...]:
        """Return the generations of a record, however lately it was stored."""
        return await self._ask(lambda each: each.history(uid, kind, scope=scope))

    async def search(
        self,
        question: str,
        filter: Filter,  # noqa: A002
        *,
        mode: SearchMode,
        limit: int,
        flat: bool,
        scope: Scope,
    ) -> SearchResult:
        """Return the records that answer a question best."""
        return await self._ask(
            lambda each: each.search(question, filter, mode=mode, limit=limit, flat=flat, scope=scope)
        )

    async def timeline(
        self, correlation_id: str, *, scope: Scope, limit: int, cursor: str | None
    ) -> Timeline:
        """Return the records of an incident in order."""
        return await self._ask(
            lambda each: each.timeline(correlation_id, scope=scope, limit=limit, cursor=cursor),
            has_cursor=bool(cursor),
        )

    async def target_history(
        self,
        filter: Filter,  # noqa: A002
        *,
        limit: int,
        cursor: str | None,
        scope: Scope,
    ) -> TargetHistory:
        """Return what was done to an object, the newest first."""
        return await self._ask(
            lambda each: each.target_history(filter, limit=limit, cursor=cursor, scope=scope),
            has_cursor=bool(cursor),
        )

    async def summary(
        self,
        filter: Filter,  # noqa: A002
        by: Sequence[str],
        *,
        limit: int,
        scope: Scope,
    ) -> ArchiveSummary:
        """Return records in groups."""
        return await self._ask(lambda each: each.summary(filter, by, limit=limit, scope=scope))

    async def _ask(self, question: _Question[T], *, has_cursor: bool = False) -> T:
        problem, reason = self._state.problem, SkipReason.AWAY
        if problem is None:
            reached_at = self._state.reached_at
            try:
                async with self._state.asked():
                    found = await question(self._standby)
            except RecordNotFoundError:
                problem, reason = "the standby of PostgreSQL does not have the record", SkipReason.NOT_FOUND
            except InvalidQueryError:
                # A cursor stands for a row. The primary may have given it, and the standby lack the row.
                if not has_cursor:
                    raise
                problem = "the standby of PostgreSQL does not have the page token's row"
                reason = SkipReason.NOT_FOUND
            except (EmbedderUnavailableError, PoolExhaustedError):
                raise  # not the standby's fault
            except TransientError as error:
                # A statement that takes too long would do so on the primary.
                if isinstance(error, WorkRefusedError) and error.is_limit:
                    raise
                problem = str(error)
                reason = SkipReason.REFUSED if isinstance(error, WorkRefusedError) else SkipReason.AWAY
                self._state.doubt()
            else:
                _note(self._state.lag_since(reached_at))
                return found
        metrics.STANDBY_SKIPPED.labels(reason).inc()
        return await self._ask_primary(question, problem)

    async def _ask_primary(self, question: _Question[T], problem: str) -> T:
        try:
            async with asyncio.timeout(self._pace.patience_seconds):
                await self._room.acquire()
        except TimeoutError:
            raise TransientError(
                f"{problem}, and the primary has as many questions as it may have meanwhile"
            ) from None
        try:
            found = await question(self._primary)
        finally:
            self._room.release()
        _note(0.0)
        return found


def _note(lag_seconds: float | None) -> None:
    freshness = FRESHNESS.get()
    if freshness is not None:
        freshness.lag_seconds = lag_seconds
