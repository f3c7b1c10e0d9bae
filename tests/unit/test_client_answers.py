"""Answers that no Data Storage server of this version gives: each is reported as such, and breaks nothing."""

import json
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest

from datastorage.cli.output import Format
from datastorage.cli.recordtables import cells
from datastorage.client import records
from datastorage.errors import ConfigurationError
from datastorage.query.searchresult import FoundBy
from datastorage.records.times import rfc3339

RECORD = {
    "kind": "AuditRecord", "namespace": "shop", "name": "a", "uid": "5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41",
    "generation": 1, "createdAt": "2026-11-26T01:57:05.373656Z", "storedAt": "2026-11-26T01:57:05Z",
    "contentHash": f"sha256:{'0' * 64}", "diverged": False, "intact": True, "via": "api", "recordedBy": None,
    "record": {"spec": {"message": "m"}},
}  # fmt: skip
ENTRY = {
    **{name: value for name, value in RECORD.items() if name != "record"},
    "success": None, "effectivenessScore": 0.5, "outcome": "Completed", "model": None, "summary": "s",
}  # fmt: skip
NUMBERS = {"records": 1, "meanSeconds": 1.0, "p50Seconds": 1.0, "p95Seconds": 1.0}
ANSWERS = {
    "record": (records.record_in, RECORD),
    "page": (records.page_in, {"items": [RECORD], "nextPageToken": None}),
    "generations": (records.generations_in, {"items": [RECORD]}),
    "timeline": (
        records.timeline_in,
        {"items": [{**RECORD, "at": "2026-11-26T01:57:05Z"}], "nextPageToken": "next"},
    ),
    "search": (
        records.search_result_in,
        {
            "items": [
                {
                    **RECORD, "score": 1.0, "similarity": None, "more": 0, "correlationID": "rr-1",
                    "moreOfIncident": 2,
                }
            ],
            "mode": "hybrid",
            "degraded": None,
            "leftOut": 0,
        },
    ),
    "history": (records.target_history_in, {"items": [ENTRY], "nextPageToken": None}),
    "summary": (
        records.summary_in,
        {
            "groupBy": ["type"], "since": "2026-11-26T01:57:05Z", "until": None, "groups": 1, "records": 1,
            "items": [
                {
                    "group": {"type": "Workflow"}, "records": 1, "failed": 0, "duration": NUMBERS,
                    "effectiveness": {"records": 0, "mean": None},
                }
            ],
        },
    ),
}  # fmt: skip
# What stands in a place where it does not fit: another type, or a value that nothing can compute with.
WRONG = [5, -1.5, True, "x", [], {}, [[1]], float("nan"), float("inf"), "0001-01-01T00:00:00+14:00"]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a value, but not into the content of a record."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (key,)
        if isinstance(each, dict | list) and key != "record":
            yield from ((key, *rest) for rest in places(each))


def changed(answer: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    made = deepcopy(answer)
    at = made
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = wrong
    return made


@pytest.mark.parametrize("name", ANSWERS)
def test_a_value_that_does_not_fit_is_reported(name: str) -> None:
    read, answer = ANSWERS[name]
    assert read(answer)
    for place in places(answer):
        for wrong in WRONG:
            with suppress(ConfigurationError):
                use(read(changed(answer, place, wrong)))
    wholes: list[Any] = [None, [], "x", 5]
    for whole in wholes:
        with pytest.raises(ConfigurationError):
            read(whole)


def use(found: Any) -> None:
    """Do with an answer what the commands do."""
    for group in getattr(found, "groups", ()):
        assert all(value is None or isinstance(value, str) for value in group.key)
        f"{group.records:,} {group.failed:,} {group.effectiveness or 0:.2f} {int(group.mean_seconds or 0)}"
    for hit in getattr(found, "hits", ()):
        f"{hit.similarity or 0:.2f} {hit.more:+} {', '.join(hit.found_by)} {hit.more_of_incident:+}"
        f"{hit.correlation_id or ''}".isprintable()
        use_record(hit.record)
    for entry in getattr(found, "entries", ()):
        use_record(entry.record)
    for each in getattr(found, "records", ()):
        use_record(each)
    if hasattr(found, "as_json"):
        json.dumps(found.as_json())


def use_record(record: Any) -> None:
    cells(Format.WIDE, record, rfc3339(record.created_at))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ((), None, 0)),
        (
            {
                "foundBy": ["words", "a way of a later version"],
                "correlationID": "rr-1",
                "moreOfIncident": 3,
            },
            ((FoundBy.WORDS,), "rr-1", 3),
        ),
    ],
    ids=["older", "newer"],
)
def test_servers_of_other_versions_are_understood(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    hit = {**RECORD, "score": 0.5, "similarity": None, "more": 0, **given}
    answer = {"items": [hit], "mode": "hybrid", "degraded": None}
    result = records.search_result_in(answer)
    [found] = result.hits
    assert result.left_out == 0
    assert (found.found_by, found.correlation_id, found.more_of_incident) == expected


def test_a_kind_that_this_version_does_not_know_is_reported() -> None:
    with pytest.raises(ConfigurationError, match="not as a Data Storage server does"):
        records.record_in({**RECORD, "kind": "PolicyRecord"})
