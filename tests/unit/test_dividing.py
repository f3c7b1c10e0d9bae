"""Work that is too much at once is divided; what is refused by itself is told from what is not there."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from datastorage.errors import TransientError, WorkRefusedError
from datastorage.pipeline.lookup import look_up
from datastorage.records.record import RecordKey, StoredRecord, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import by_parts, page_of
from tests.support.fakes import STORED_AT, Probe

KEYS = [RecordKey(str(n), 1, datetime(2026, 3, 1, tzinfo=UTC), b"") for n in range(500)]


class SlowArchive:
    """Answers for so many keys at once, and never where one of ``stuck`` is among them."""

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


async def test_what_is_not_answered_is_not_missing(breaker: Breaker) -> None:
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

    assert await by_parts(breaker, work, range(100)) == [100]
    assert sizes == [100, 100, 100]


@pytest.mark.parametrize(("most", "got"), [(10_000, 10_000), (700, 625), (1, 1)])
async def test_a_page_that_is_too_much_is_read_smaller(breaker: Breaker, most: int, got: int) -> None:
    async def read(limit: int) -> int:
        if limit > most:
            raise WorkRefusedError("too slow")
        return limit

    assert await page_of(breaker, read, 10_000) == got
