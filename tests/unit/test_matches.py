"""The order of what a search has found: it is the same whatever plan PostgreSQL takes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from datastorage.records.record import RecordKey, Table
from datastorage.storage.matches import Match, best_of_each_text
from datastorage.storage.places import Place

KEY = RecordKey("a", 1, datetime(2026, 3, 5, tzinfo=UTC), b"1")


def match(key: RecordKey, share: float = 0.5, similarity: float | None = None) -> Match:
    return Match(Place(Table.AUDIT_RECORDS, key), None, share, similarity=similarity)


@pytest.mark.parametrize(
    "before",
    [
        match(KEY, share=0.6),
        match(replace(KEY, uid="b"), similarity=-0.5),
        match(replace(KEY, created_at=KEY.created_at + timedelta(seconds=1))),
        match(replace(KEY, uid="A")),
        match(replace(KEY, generation=2)),
        match(replace(KEY, spec_hash=b"0")),
    ],
    ids=["a larger share", "a similarity", "newer", "another uid", "a later generation", "another content"],
)
def test_the_order_does_not_depend_on_that_of_the_rows(before: Match) -> None:
    for rows in permutations([before, match(KEY)]):
        assert best_of_each_text(rows, per_text=1) == [before, match(KEY)]
