"""Groups of records: each in a transaction of its own, few at a time, and with the reason of a refusal."""

import asyncio
from collections.abc import Sequence

import pytest

from datastorage.errors import (
    DataStorageError,
    GroupRefusedError,
    RecordRefusedError,
    TransientError,
    WorkRefusedError,
)
from datastorage.pipeline.groups import Groups, Pace
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from harness.objects import audit_record, record_of
from harness.polling import DEADLINE_SECONDS, settle
from tests.support.fakes import STORED_AT
from tests.support.tasks import Spawn


class Writer:
    """Stores what it is not told to refuse; ``calls`` has how each group was to be stored."""

    def __init__(self) -> None:
        self.refusal: DataStorageError | None = None
        self.bare_refusal: DataStorageError | None = None
        self.rehearsal: DataStorageError | None = None
        self.calls: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def store(self, records: Sequence[Record], *, whole: bool) -> list[StoredRecord]:
        return await self._store("store", records, self.refusal, whole=whole)

    async def store_bare(self, records: Sequence[Record], *, whole: bool) -> list[StoredRecord]:
        return await self._store("bare", records, self.bare_refusal, whole=whole)

    async def _store(
        self, how: str, records: Sequence[Record], refusal: DataStorageError | None, *, whole: bool
    ) -> list[StoredRecord]:
        assert whole
        self.calls.append(how)
        await self.gate.wait()
        if refusal is not None:
            raise refusal
        return [StoredRecord(record.content_hash, STORED_AT, is_new=True) for record in records]

    async def rehearse(self, records: Sequence[Record]) -> None:
        self.calls.append(f"rehearse {len(records)}")
        if self.rehearsal is not None:
            raise self.rehearsal
        if any(record.name == "bad" for record in records):
            raise RecordRefusedError("the value is out of range")


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def groups(writer: Writer, breaker: Breaker) -> Groups:
    return Groups(writer=writer, rehearse=writer.rehearse, breaker=breaker)


def group(*names: str) -> list[Record]:
    return [record_of(audit_record(name=name)) for name in names]


def limited() -> WorkRefusedError:
    error = WorkRefusedError("canceling statement due to statement timeout")
    error.is_limit = True
    return error


async def test_vectors_that_are_too_much_for_the_server_do_not_keep_a_group_out(
    writer: Writer, groups: Groups
) -> None:
    writer.refusal = limited()
    stored = await groups.store(group("a", "b"))
    assert [row.is_new for row in stored] == [True, True]
    assert writer.calls == ["store", "bare"]


async def test_the_records_at_fault_are_named(writer: Writer, groups: Groups) -> None:
    writer.refusal = RecordRefusedError("the value is out of range")
    with pytest.raises(GroupRefusedError, match="out of range") as caught:
        await groups.store(group("a", "bad", "c", "d", "bad"))
    assert sorted(caught.value.errors) == [1, 4]
    assert all(isinstance(error, RecordRefusedError) for error in caught.value.errors.values())
    assert not caught.value.is_transient
    assert "bare" not in writer.calls  # without vectors, the values would be the same


async def test_a_limit_is_the_fault_of_no_record(writer: Writer, groups: Groups) -> None:
    writer.refusal = writer.bare_refusal = limited()
    with pytest.raises(GroupRefusedError) as caught:
        await groups.store(group("a", "bad"))
    assert (caught.value.errors, caught.value.is_transient) == ({}, True)
    assert writer.calls == ["store", "bare"]


async def test_without_an_answer_about_single_records_the_reason_stands_alone(
    writer: Writer, groups: Groups
) -> None:
    writer.refusal = RecordRefusedError("the value is out of range")
    writer.rehearsal = TransientError("no connection")
    with pytest.raises(GroupRefusedError, match="out of range") as caught:
        await groups.store(group("bad"))
    assert caught.value.errors == {}


async def test_a_stop_waits_for_the_groups_under_way(writer: Writer, groups: Groups, spawn: Spawn) -> None:
    await asyncio.wait_for(groups.finished(), DEADLINE_SECONDS)
    writer.gate.clear()
    waiting = [spawn(groups.store(group("a"))) for _ in range(Pace().at_once + 1)]
    await settle()
    stop = spawn(groups.finished())
    waiting[0].cancel()
    await settle()
    assert not stop.done()
    writer.gate.set()
    await stop
    assert len(await waiting[-1]) == 1


async def test_only_some_groups_are_stored_at_a_time(writer: Writer, groups: Groups, spawn: Spawn) -> None:
    writer.gate.clear()
    waiting = [spawn(groups.store(group("a"))) for _ in range(Pace().at_once + 2)]
    await settle()
    assert len(writer.calls) == Pace().at_once
    waiting[0].cancel()  # its turn goes to the next one
    await settle()
    assert len(writer.calls) == Pace().at_once + 1
    writer.gate.set()
    assert [len(rows) for rows in await asyncio.gather(*waiting[1:])] == [1] * (len(waiting) - 1)
