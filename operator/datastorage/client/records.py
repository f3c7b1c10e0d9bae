"""The records in the answers of a server, as the values that the archive itself returns."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from datastorage.client.problems import not_an_answer
from datastorage.query.archivedrecord import ArchivedRecord, Page
from datastorage.query.archivesummary import ArchiveSummary
from datastorage.query.filters import SearchMode
from datastorage.query.searchresult import SearchHit, SearchResult
from datastorage.query.targethistory import HistoryEntry, TargetHistory
from datastorage.query.timeline import Timeline, TimelineEntry
from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import unlabelled
from datastorage.records.record import Via
from datastorage.storage.groups import Group, GroupKey

T = TypeVar("T")

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
    return _read(lambda a: Page(tuple(map(_record, a["items"])), a["nextPageToken"]), answer)


def generations_in(answer: Any) -> tuple[ArchivedRecord, ...]:
    """Return the generations of a record."""
    return _read(lambda a: tuple(map(_record, a["items"])), answer)


def timeline_in(answer: Any) -> Timeline:
    """Return a page of a timeline."""

    def read(page: Mapping[str, Any]) -> Timeline:
        entries = (TimelineEntry(datetime.fromisoformat(each["at"]), _record(each)) for each in page["items"])
        return Timeline(tuple(entries), page["nextPageToken"])

    return _read(read, answer)


def search_result_in(answer: Any) -> SearchResult:
    """Return the hits of a search."""

    def read(found: Mapping[str, Any]) -> SearchResult:
        hits = (
            SearchHit(_record(each), each["score"], each["similarity"], each["more"])
            for each in found["items"]
        )
        return SearchResult(SearchMode(found["mode"]), tuple(hits), found["degraded"])

    return _read(read, answer)


def target_history_in(answer: Any) -> TargetHistory:
    """Return a page of the history of an object."""

    def read(page: Mapping[str, Any]) -> TargetHistory:
        entries = (
            HistoryEntry(
                _record({**each, "record": None}),
                {name: each[name] for name in each if name not in _OF_RECORD},
            )
            for each in page["items"]
        )
        return TargetHistory(tuple(entries), page["nextPageToken"])

    return _read(read, answer)


def summary_in(answer: Any) -> ArchiveSummary:
    """Return the groups of a summary."""

    def read(found: Mapping[str, Any]) -> ArchiveSummary:
        keys = tuple(GroupKey(name) for name in found["groupBy"])
        until = found["until"]
        return ArchiveSummary(
            keys=keys,
            since=datetime.fromisoformat(found["since"]),
            until=None if until is None else datetime.fromisoformat(until),
            groups=tuple(_group(keys, item) for item in found["items"]),
            all_groups=found["groups"],
            all_records=found["records"],
        )

    return _read(read, answer)


def _group(keys: Sequence[GroupKey], item: Mapping[str, Any]) -> Group:
    duration, effectiveness = item["duration"], item["effectiveness"]
    return Group(
        key=tuple(item["group"][key] for key in keys),
        records=item["records"],
        failed=item["failed"],
        timed=duration["records"],
        mean_seconds=duration["meanSeconds"],
        p50_seconds=duration["p50Seconds"],
        p95_seconds=duration["p95Seconds"],
        assessed=effectiveness["records"],
        effectiveness=effectiveness["mean"],
    )


def _record(item: Mapping[str, Any]) -> ArchivedRecord:
    return ArchivedRecord(
        kind=item["kind"],
        namespace=item["namespace"],
        name=item["name"],
        uid=item["uid"],
        generation=item["generation"],
        created_at=datetime.fromisoformat(item["createdAt"]),
        stored_at=datetime.fromisoformat(item["storedAt"]),
        content_hash=unlabelled(item["contentHash"]),
        diverged=item["diverged"],
        intact=item["intact"],
        via=Via(item["via"]),
        recorded_by=item["recordedBy"],
        # The server has compared the stored bytes with their hash; these have the same values.
        content=b"" if item["record"] is None else canonical_bytes(item["record"]),
    )


def _read(read: Callable[[Any], T], answer: Any) -> T:
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_an_answer(200) from error
