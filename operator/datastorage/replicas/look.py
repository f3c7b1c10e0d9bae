"""One look at all replicas: rates, depths, lag, and who holds what, as numbers with their units."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from datastorage.metrics import (
    DEPENDENCY_UP,
    GC_SCHEDULED,
    GC_TOTAL,
    GUARD_IN_FORCE,
    HTTP_TOTAL,
    INTAKE_DEPTH,
    LEASE_HELD,
    LIMITS_HIT,
    LOOP_HELD,
    OUTBOX_AGE,
    OUTBOX_DEPTH,
    QUERY_TOTAL,
    REPLICA_LAG,
    STATUS_DEPTH,
    STATUS_TOTAL,
    STORED_SECONDS,
    UNSTORED_COUNT,
    UNSTORED_OLDEST_SECONDS,
    WAITING_RECORDS,
    WRITE_TOTAL,
    GcOutcome,
    StatusOutcome,
    WriteStatus,
)
from datastorage.records.times import rfc3339
from datastorage.records.vectorwrite import OutboxState
from datastorage.replicas.history import History
from datastorage.replicas.page import Metric, Page
from datastorage.replicas.quantiles import buckets_of, quantile

_SERVER_ERRORS: Final = tuple(str(status.value) for status in HTTPStatus if status >= 500)
_STORED_SHARE: Final = 0.95
_HELD_SHARE: Final = 0.99


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica: what it has said, or why it does not answer."""

    name: str
    history: History
    trouble: str | None = None

    @property
    def page(self) -> Page | None:
        """What it says now; None if it does not answer."""
        return self.history.latest.page if self.history.latest is not None and self.trouble is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What happens in a second, since the look before; None at the first look."""

    stored: float | None
    failed_writes: float | None
    rejected: float | None
    status_writes: float | None
    deletions: float | None
    reads: float | None
    requests: float | None
    server_errors: float | None
    """Of the requests, those answered with 5xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """What waits, as numbers of records; None if no replica says it."""

    intake: float | None
    unstored: float | None
    refused_for_now: float | None
    """Records that PostgreSQL refuses while it stores others."""
    status_queue: float | None
    scheduled_deletions: float | None
    outbox_pending: float | None
    outbox_failed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How late things are, in seconds. The quantiles are those of the last minute."""

    created_to_stored_p95: float | None
    """None if nothing was stored."""
    oldest_unstored: float | None
    oldest_in_outbox: float | None
    event_loop_held_p99: float | None
    """Of the replica that is held for longest."""
    standby: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLook:
    """One replica."""

    name: str
    trouble: str | None
    """Why it does not answer. Then nothing else is known of it."""
    version: str
    up_seconds: float | None
    stored_per_second: float | None
    requests_per_second: float | None
    intake: float | None
    event_loop_held_p99_seconds: float | None
    leases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DependencyLook:
    """A server or table that the program needs."""

    name: str
    away_for: tuple[str, ...]
    """The replicas for which it does not serve."""


@dataclass(frozen=True, slots=True)
class LeaseLook:
    """A Lease. Nobody holds it for some seconds after its holder has died."""

    name: str
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuardLook:
    """An admission policy that guards the records. One replica that sees it in force is enough."""

    name: str
    in_force: bool


@dataclass(frozen=True, slots=True)
class LimitLook:
    """A limit of the API, and how often clients met it."""

    name: str
    recently: float
    """In the last minute."""
    since_start: float
    """Since the replicas have started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All replicas at one time. Sums are over those that answer."""

    at: datetime
    rate_seconds: float | None
    """The time over which the rates are counted; None at the first look."""
    recent_seconds: float
    """The time over which quantiles and limits are counted."""
    replicas: tuple[ReplicaLook, ...]
    per_second: Rates
    depths: Depths
    lag_seconds: Lag
    dependencies: tuple[DependencyLook, ...]
    leases: tuple[LeaseLook, ...]
    guards: tuple[GuardLook, ...]
    limits: tuple[LimitLook, ...]

    @property
    def answering(self) -> int:
        """The number of replicas that answer."""
        return sum(replica.trouble is None for replica in self.replicas)

    def as_json(self) -> dict[str, Any]:
        """Return the look for programs."""
        return {**_in_camel_case(asdict(self)), "at": rfc3339(self.at)}


def look_at(replicas: Sequence[Seen], at: datetime) -> Look:
    """Return what replicas say together."""
    answering = [replica for replica in replicas if replica.page is not None]
    pages = [(replica.name, replica.page) for replica in answering if replica.page is not None]
    histories = [replica.history for replica in answering]
    intervals = [history.seconds for history in histories if history.seconds is not None]
    return Look(
        at=at,
        rate_seconds=max(intervals, default=None),
        recent_seconds=max((history.recent_seconds for history in histories), default=0.0),
        replicas=tuple(_replica(replica, at) for replica in replicas),
        per_second=_rates(histories),
        depths=_depths([page for _, page in pages]),
        lag_seconds=_lag(histories, [page for _, page in pages]),
        dependencies=tuple(
            DependencyLook(name, tuple(replica for replica, up in found if not up))
            for name, found in _by_word(pages, DEPENDENCY_UP)
        ),
        leases=tuple(
            LeaseLook(name, tuple(replica for replica, held in found if held))
            for name, found in _by_word(pages, LEASE_HELD)
        ),
        guards=tuple(
            GuardLook(name, any(in_force for _, in_force in found))
            for name, found in _by_word(pages, GUARD_IN_FORCE)
        ),
        limits=tuple(
            LimitLook(name, _recently(histories, name), sum(hit for _, hit in found))
            for name, found in _by_word(pages, LIMITS_HIT)
        ),
    )


def _replica(replica: Seen, at: datetime) -> ReplicaLook:
    page, history = replica.page, replica.history
    if page is None:
        return ReplicaLook(
            name=replica.name, trouble=replica.trouble or "not asked yet", version="", up_seconds=None,
            stored_per_second=None, requests_per_second=None, intake=None, event_loop_held_p99_seconds=None,
            leases=(),
        )  # fmt: skip
    return ReplicaLook(
        name=replica.name,
        trouble=None,
        version=page.version,
        up_seconds=None if page.started is None else max(0.0, (at - page.started).total_seconds()),
        stored_per_second=history.rate(WRITE_TOTAL, WriteStatus.SUCCESS),
        requests_per_second=history.rate(HTTP_TOTAL),
        intake=_combined([page], sum, INTAKE_DEPTH),
        event_loop_held_p99_seconds=_held(history),
        leases=tuple(name for name, held in page.by_word(LEASE_HELD) if held),
    )


def _rates(histories: Sequence[History]) -> Rates:
    def rate(metric: Metric, *words: str) -> float | None:
        return _sum_of_known(history.rate(metric, *words) for history in histories)

    return Rates(
        stored=rate(WRITE_TOTAL, WriteStatus.SUCCESS),
        failed_writes=rate(WRITE_TOTAL, WriteStatus.FAILURE),
        rejected=rate(WRITE_TOTAL, WriteStatus.REJECTED),
        status_writes=rate(STATUS_TOTAL, StatusOutcome.SUCCESS),
        deletions=rate(GC_TOTAL, GcOutcome.DELETED),
        reads=rate(QUERY_TOTAL),
        requests=rate(HTTP_TOTAL),
        server_errors=_sum_of_known(rate(HTTP_TOTAL, status) for status in _SERVER_ERRORS),
    )


def _sum_of_known(rates: Iterable[float | None]) -> float | None:
    """Return the sum of the rates that are known; None if none is."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _depths(pages: Sequence[Page]) -> Depths:
    return Depths(
        intake=_combined(pages, sum, INTAKE_DEPTH),
        unstored=_combined(pages, sum, UNSTORED_COUNT),
        refused_for_now=_combined(pages, sum, WAITING_RECORDS),
        status_queue=_combined(pages, sum, STATUS_DEPTH),
        scheduled_deletions=_combined(pages, sum, GC_SCHEDULED),
        # Every replica counts the same table.
        outbox_pending=_combined(pages, max, OUTBOX_DEPTH, OutboxState.PENDING),
        outbox_failed=_combined(pages, max, OUTBOX_DEPTH, OutboxState.FAILED),
    )


def _lag(histories: Sequence[History], pages: Sequence[Page]) -> Lag:
    held = [seconds for seconds in map(_held, histories) if seconds is not None]
    stored = buckets_of(history.recent(STORED_SECONDS) for history in histories)
    return Lag(
        created_to_stored_p95=quantile(stored, _STORED_SHARE),
        oldest_unstored=_combined(pages, max, UNSTORED_OLDEST_SECONDS),
        oldest_in_outbox=_combined(pages, max, OUTBOX_AGE),
        event_loop_held_p99=max(held, default=None),
        standby=_combined(pages, max, REPLICA_LAG),
    )


def _held(history: History) -> float | None:
    return quantile(buckets_of([history.recent(LOOP_HELD)]), _HELD_SHARE)


def _recently(histories: Iterable[History], limit: str) -> float:
    return sum(
        hits
        for history in histories
        for labels, hits in history.recent(LIMITS_HIT).items()
        if limit in dict(labels).values()
    )


def _combined(
    pages: Iterable[Page], combine: Callable[[Iterable[float]], float], metric: Metric, *words: str
) -> float | None:
    """Return the sum, or the greatest, of the series that have the words; None if there are none."""
    values = [value for page in pages for value in page.values(metric, *words)]
    return combine(values) if values else None


def _by_word(pages: Iterable[tuple[str, Page]], family: Metric) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return, for each word of a metric's label, the replicas with their values, in the order of words."""
    found: dict[str, list[tuple[str, float]]] = {}
    for replica, page in pages:
        for word, value in page.by_word(family):
            found.setdefault(word, []).append((replica, value))
    return sorted(found.items())


def _in_camel_case(value: Any) -> Any:
    match value:
        case dict():
            return {_camel(name): _in_camel_case(each) for name, each in value.items()}
        case list() | tuple():
            return [_in_camel_case(each) for each in value]
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
