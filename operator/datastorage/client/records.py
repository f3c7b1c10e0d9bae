"""The records in the answers of a server, as the values that the archive itself returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from datastorage.client.problems import not_an_answer
from datastorage.client.values import (
    BOOLEAN,
    BOOLEAN_OR_NULL,
    INTEGER,
    NUMBER_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    time_in,
    value_in,
)
from datastorage.query.archivedrecord import ArchivedRecord, Page
from datastorage.query.archivesummary import ArchiveSummary
from datastorage.query.filters import SearchMode
from datastorage.query.searchresult import FoundBy, SearchHit, SearchResult
from datastorage.query.targethistory import HistoryEntry, TargetHistory
from datastorage.query.timeline import Timeline, TimelineEntry
from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import unlabelled
from datastorage.records.record import Via
from datastorage.resources.kinds import KINDS
from datastorage.storage.groups import Group, GroupKey

T = TypeVar("T")

_KINDS: Final = frozenset(kind.kind for kind in KINDS)
# Those that are shown in a table; the others are printed as they are.
_FACTS: Final = {
    "success": BOOLEAN_OR_NULL, "effectivenessScore": NUMBER_OR_NULL, "outcome": TEXT_OR_NULL,
    "model": TEXT_OR_NULL, "summary": TEXT,
}  # fmt: skip
_WAYS: Final = {way.value: way for way in FoundBy}
# The fields of an entry that are those of its record.
_OF_RECORD: Final = frozenset(
    {
        "kind", "namespace", "name", "uid", "generation", "createdAt", "storedAt", "contentHash", "diverged",
        "intact", "via", "recordedBy",
    }
)  # fmt: skip


def record_in(answer: Any) -> ArchivedRecord:
    """Return the record in an answer. Raises ConfigurationError for anything that is not one."""
    return _read(_record, answer)


def page_in(answer: Any) -> Page:
    """Return a page of a list."""
    return _read(lambda a: Page(tuple(map(_record, a["items"])), _cursor(a)), answer)


def generations_in(answer: Any) -> tuple[ArchivedRecord, ...]:
    """Return the generations of a record."""
    return _read(lambda a: tuple(map(_record, a["items"])), answer)


def timeline_in(answer: Any) -> Timeline:
    """Return a page of a timeline."""

    def read(page: Mapping[str, Any]) -> Timeline:
        entries = (TimelineEntry(time_in(each, "at"), _record(each)) for each in page["items"])
        return Timeline(tuple(entries), _cursor(page))

    return _read(read, answer)


def search_result_in(answer: Any) -> SearchResult:
    """Return the hits of a search."""

    def read(found: Mapping[str, Any]) -> SearchResult:
        hits = (
            SearchHit(
                _record(each),
                value_in(each, "score", NUMBER_OR_NULL),
                value_in(each, "similarity", NUMBER_OR_NULL),
                # An older server does not say it, and a newer one may have other ways.
                tuple(_WAYS[way] for way in each.get("foundBy", ()) if way in _WAYS),
                value_in(each, "more", INTEGER),
                # An older server knows no incidents.
                value_in({"correlationID": None, **each}, "correlationID", TEXT_OR_NULL),
                value_in({"moreOfIncident": 0, **each}, "moreOfIncident", INTEGER),
            )
            for each in found["items"]
        )
        return SearchResult(
            SearchMode(found["mode"]),
            tuple(hits),
            value_in(found, "degraded", TEXT_OR_NULL),
            # An older server does not count them.
            value_in({"leftOut": 0, **found}, "leftOut", INTEGER),
        )

    return _read(read, answer)


def target_history_in(answer: Any) -> TargetHistory:
    """Return a page of the history of an object."""

    def read(page: Mapping[str, Any]) -> TargetHistory:
        entries = (HistoryEntry(_record({**each, "record": None}), _facts_in(each)) for each in page["items"])
        return TargetHistory(tuple(entries), _cursor(page))

    return _read(read, answer)


def _facts_in(item: Mapping[str, Any]) -> Mapping[str, Any]:
    facts = {name: item[name] for name in item if name not in _OF_RECORD}
    return facts | {name: value_in(item, name, types) for name, types in _FACTS.items()}


def summary_in(answer: Any) -> ArchiveSummary:
    """Return the groups of a summary."""

    def read(found: Mapping[str, Any]) -> ArchiveSummary:
        keys = tuple(GroupKey(name) for name in found["groupBy"])
        until = found["until"]
        return ArchiveSummary(
            keys=keys,
            since=time_in(found, "since"),
            until=None if until is None else time_in(found, "until"),
            groups=tuple(_group(keys, item) for item in found["items"]),
            all_groups=value_in(found, "groups", INTEGER),
            all_records=value_in(found, "records", INTEGER),
        )

    return _read(read, answer)


def _group(keys: Sequence[GroupKey], item: Mapping[str, Any]) -> Group:
    duration, effectiveness = item["duration"], item["effectiveness"]
    return Group(
        key=tuple(value_in(item["group"], key, TEXT_OR_NULL) for key in keys),
        records=value_in(item, "records", INTEGER),
        failed=value_in(item, "failed", INTEGER),
        timed=value_in(duration, "records", INTEGER),
        mean_seconds=value_in(duration, "meanSeconds", NUMBER_OR_NULL),
        p50_seconds=value_in(duration, "p50Seconds", NUMBER_OR_NULL),
        p95_seconds=value_in(duration, "p95Seconds", NUMBER_OR_NULL),
        assessed=value_in(effectiveness, "records", INTEGER),
        effectiveness=value_in(effectiveness, "mean", NUMBER_OR_NULL),
    )


def _cursor(page: Mapping[str, Any]) -> str | None:
    cursor: str | None = value_in(page, "nextPageToken", TEXT_OR_NULL)
    return cursor


def _record(item: Mapping[str, Any]) -> ArchivedRecord:
    if item["kind"] not in _KINDS:
        raise ValueError("kind: unknown")
    return ArchivedRecord(
        kind=item["kind"],
        namespace=value_in(item, "namespace", TEXT),
        name=value_in(item, "name", TEXT),
        uid=value_in(item, "uid", TEXT),
        generation=value_in(item, "generation", INTEGER),
        created_at=time_in(item, "createdAt"),
        stored_at=time_in(item, "storedAt"),
        content_hash=unlabelled(item["contentHash"]),
        diverged=value_in(item, "diverged", BOOLEAN),
        intact=value_in(item, "intact", BOOLEAN),
        via=Via(item["via"]),
        recorded_by=value_in(item, "recordedBy", TEXT_OR_NULL),
        # The server has compared the stored bytes with their hash; these have the same values.
        content=b"" if item["record"] is None else canonical_bytes(item["record"]),
    )


def _read(read: Callable[[Any], T], answer: Any) -> T:
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_an_answer(200) from error
