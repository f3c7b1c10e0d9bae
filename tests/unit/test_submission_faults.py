"""A request is never answered as stored or kept when its record is neither."""

import asyncio
import uuid
from collections.abc import Sequence

import pytest

from datastorage.errors import RecordRefusedError, TransientError, WorkRefusedError
from datastorage.pipeline.setaside import Pace as AsidePace
from datastorage.pipeline.submissions import Pace, Submissions, Unknown
from datastorage.records.record import Record, StoredRecord
from datastorage.resilience.breaker import Breaker
from datastorage.resources.reading.requestrecord import record_of_request
from harness.objects import AUDIT_SPEC
from tests.support.fakes import FakeArchive, no_groups
from tests.support.storing import Storing
from tests.support.tasks import Spawn

PATIENT = Pace()
SOON = Pace(commit_seconds=0.05)
NOT_SO_SOON = Pace(
    commit_seconds=2.0
)  # on a busy machine, too, the record that does not wait is stored by then


def sent(name: str) -> Record:
    metadata = {"namespace": "payments", "name": name, "uid": str(uuid.uuid4())}
    body = {"metadata": metadata, "spec": AUDIT_SPEC}
    return record_of_request(body, recorded_by="robot", with_text=False)


class Refusing(FakeArchive):
    """Never stores records named slow, and stores others."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        if any(record.name == "slow" for record in records):
            raise WorkRefusedError("canceling statement due to statement timeout")
        return await super().store(records)

    store_bare = store


class KeepsNothing(FakeArchive):
    async def reject(self, record: Record, reason: str) -> None:
        del record, reason
        raise RecordRefusedError("not even the bytes")


def submissions(storing: Storing, pace: Pace = PATIENT) -> Submissions:
    groups = no_groups(storing.breaker)
    made = Submissions(intake=storing.entrance.intake, groups=groups, breakers=(storing.breaker,), pace=pace)
    made.open()
    return made


async def test_what_is_committed_is_acknowledged_beside_a_record_that_waits(
    breaker: Breaker, spawn: Spawn
) -> None:
    storing = Storing(Refusing(), breaker)
    spawn(storing.run())
    stored, waiting = await submissions(storing, NOT_SO_SOON).store([sent("quick"), sent("slow")])
    assert isinstance(stored, StoredRecord)
    assert isinstance(waiting, Unknown)
    with pytest.raises(TransientError, match="send the same request again"):
        await submissions(storing, SOON).store([sent("slow")])


async def test_a_record_that_is_dropped_from_memory_is_not_answered_as_kept(
    breaker: Breaker, spawn: Spawn
) -> None:
    storing = Storing(Refusing(), breaker, pace=AsidePace(max_bytes=1, first_pause_seconds=60.0))
    spawn(storing.run())
    answers = await asyncio.gather(*(submissions(storing).store([sent("slow")]) for _ in range(2)))
    assert all(isinstance(answer, Unknown) for [answer] in answers)
    # Only objects of the cluster come back by themselves.
    assert storing.register.postponed == 0


async def test_a_record_that_can_not_even_be_kept_is_not_answered_as_kept(
    breaker: Breaker, spawn: Spawn
) -> None:
    storing = Storing(KeepsNothing(bad=frozenset({"bad"})), breaker)
    spawn(storing.run())
    stored, refused = await submissions(storing).store([sent("good"), sent("bad")])
    assert isinstance(stored, StoredRecord)
    assert isinstance(refused, Unknown)


def test_two_requests_never_have_the_same_time() -> None:
    records = [sent("same") for _ in range(1_000)]
    assert len({record.key.created_at for record in records}) == len(records)
