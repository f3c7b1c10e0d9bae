"""Work that is too much at once is divided; an item that is refused alone does not count as missing."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import MissingRightsError, RecordRefusedError, TransientError, WorkRefusedError
from datastorage.pipeline.lookup import look_up
from datastorage.records.record import RecordKey, StoredRecord, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import chunks, in_halves, in_halves_without_breaker, read_page
from tests.support.fakes import STORED_AT, Probe

KEYS = [RecordKey(str(n), 1, datetime(2026, 3, 1, tzinfo=UTC), b"") for n in range(500)]


class SlowArchive:
    """Answers for up to ``most`` keys at once, and never where one of ``stuck`` is among them."""

    def __init__(self, most: int, stuck: Sequence[RecordKey] = ()) -> None:
        self.most = most
        self.stuck = set(stuck)
        self.asked: list[int] = []

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        assert table is Table.AUDIT_RECORDS
        self.asked.append(len(keys))
        if len(keys) > self.most or self.stuck & set(keys):
            raise WorkRefusedError("canceling statement due to statement timeout")
        return {key: StoredRecord(b"", STORED_AT) for key in keys if int(key.uid) % 2}


async def test_a_look_up_that_takes_too_long_is_divided(breaker: Breaker) -> None:
    archive = SlowArchive(most=70)
    answer = await look_up(archive, breaker, Table.AUDIT_RECORDS, KEYS)
    assert answer.found.keys() == {key for key in KEYS if int(key.uid) % 2}
    assert answer.unanswered == {}
    assert breaker.reason is None


async def test_a_key_without_an_answer_is_not_missing(breaker: Breaker) -> None:
    archive = SlowArchive(most=500, stuck=KEYS[123:124])
    answer = await look_up(archive, breaker, Table.AUDIT_RECORDS, KEYS)
    assert list(answer.unanswered) == [KEYS[123]]
    assert "statement timeout" in answer.unanswered[KEYS[123]]
    assert answer.found.keys() == {key for key in KEYS if int(key.uid) % 2} - {KEYS[123]}


async def test_a_server_that_is_away_divides_nothing(breaker: Breaker, probe: Probe) -> None:
    away = [TransientError("away"), TransientError("away")]
    probe.errors = [TransientError("still away")]
    sizes = []

    async def work(items: Sequence[int]) -> int:
        sizes.append(len(items))
        if away:
            raise away.pop()
        return len(items)

    assert await in_halves(breaker, work, range(100)) == [100]
    assert sizes == [100, 100, 100]


@pytest.mark.parametrize(("most", "got"), [(10_000, 10_000), (700, 625), (1, 1)])
async def test_a_page_that_is_too_much_is_read_smaller(breaker: Breaker, most: int, got: int) -> None:
    async def read(limit: int) -> int:
        if limit > most:
            raise WorkRefusedError("too slow")
        return limit

    assert await read_page(breaker, read, 10_000) == got


@pytest.mark.parametrize("error", [RecordRefusedError("bad value"), WorkRefusedError("too slow")])
async def test_items_that_are_refused_by_themselves_are_found(breaker: Breaker, error: Exception) -> None:
    refused: dict[int, str] = {}

    async def work(items: Sequence[int]) -> Sequence[int]:
        if {3, 60} & set(items):
            raise error
        return items

    done = await in_halves(breaker, work, range(100), lambda item, why: refused.update({item: str(why)}))
    assert [item for chunk in done for item in chunk] == [n for n in range(100) if n not in {3, 60}]
    assert refused == {3: str(error), 60: str(error)}


async def test_a_missing_right_is_waited_for_with_all_items(breaker: Breaker) -> None:
    sizes: list[int] = []

    async def work(items: Sequence[int]) -> int:
        sizes.append(len(items))
        if len(sizes) < 4:
            raise MissingRightsError("permission denied")
        return len(items)

    assert await in_halves(breaker, work, range(100), lambda *_: None) == [100]
    assert sizes == [100] * 4


async def test_without_a_breaker_nothing_is_waited_for() -> None:
    async def work(items: Sequence[int]) -> int:
        if len(items) > 30:
            raise WorkRefusedError("too slow")
        if 60 in items:
            raise TransientError("away")
        return len(items)

    assert sum(await in_halves_without_breaker(work, range(60), None)) == 60
    with pytest.raises(TransientError, match="away"):
        await in_halves_without_breaker(work, range(100), None)


async def test_an_error_without_a_handler_is_raised() -> None:
    async def work(_: Sequence[int]) -> None:
        raise RecordRefusedError("bad value")

    with pytest.raises(RecordRefusedError, match="bad value"):
        await in_halves_without_breaker(work, [1, 2], None)


async def test_no_items_are_no_work(breaker: Breaker) -> None:
    async def work(_: Sequence[int]) -> None:
        raise AssertionError

    assert await in_halves(breaker, work, []) == []


@given(st.lists(st.integers(0, 30), max_size=30))
def test_chunks_keep_the_items_and_the_bound(sizes: list[int]) -> None:
    items = list(enumerate(sizes))
    made = list(chunks(items, lambda item: item[1], 10))
    assert [item for chunk in made for item in chunk] == items
    for chunk in made:
        assert len(chunk) == 1 or sum(size for _, size in chunk) <= 10
    for chunk, following in pairwise(made):
        assert sum(size for _, size in [*chunk, following[0]]) > 10, "no chunk is smaller than it has to be"
