"""Failed writes, refused values and limits are counted for the right reason, and only then."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from datastorage.api.answers import AnswerLimits, Answers
from datastorage.api.atonce import AtOnce
from datastorage.api.bodies import invalid
from datastorage.api.reviewcache import ReviewCache
from datastorage.api.room import Room
from datastorage.embedding import Embedder, VectorCache
from datastorage.errors import (
    ClusterUnavailableError,
    GroupRefusedError,
    OverloadedError,
    TransientError,
    WorkRefusedError,
)
from datastorage.metrics import Dependency, Limit, Review
from datastorage.pipeline.batchwriter import EmbeddingWriter
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import WorkItem
from datastorage.pipeline.measuring import Attempts
from datastorage.pipeline.submissions import Pace, RequestOrigin, Submissions
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, RecordKey, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.breaker import Pace as BreakerPace
from datastorage.resources.validation.problems import Code, FieldProblem
from harness.objects import audit_record, record_of
from harness.polling import eventually
from tests.support.counted import changes
from tests.support.embedding import FakeProvider
from tests.support.fakes import STORED_AT, FakeArchive, Probe, no_groups
from tests.support.pace import NEVER
from tests.support.storing import Storing
from tests.support.tasks import Spawn

WRITES = "datastorage_write_total"  # its labels in order: status, table
LIMITS = "datastorage_limits_hit_total"
REFUSED = "datastorage_validation_failures_total"
TABLE = "audit_records"
# The archive in memory does not say which of its rows are new.
DONE = "duplicate"


def bodies(*names: str) -> list[dict[str, object]]:
    return [audit_record(name=name) for name in names]


async def store(breaker: Breaker, spawn: Spawn, archive: FakeArchive, *names: str) -> None:
    storing = Storing(archive, breaker)
    storing.offer(*bodies(*names))
    running = spawn(storing.run())
    await eventually(lambda: len(storing.outcomes) == len(names))
    running.cancel()


async def test_records_that_are_stored_are_no_failures(breaker: Breaker, spawn: Spawn) -> None:
    with changes(WRITES) as written:
        await store(breaker, spawn, FakeArchive(), "a", "b")
    assert written == {(DONE, TABLE): 2}


async def test_the_time_until_a_record_is_stored_is_that_of_first_generations() -> None:
    """A later generation may be hours younger than its object, and nothing says when it was made."""
    rows = [replace(record_of(audit_record(name=name)), key=key) for name, key in _ages()]

    async def store(records: Sequence[Record]) -> list[StoredRecord]:
        return [StoredRecord(record.content_hash, STORED_AT, is_new=True) for record in records]

    name = "datastorage_created_to_stored_seconds"
    with changes(f"{name}_count") as counted, changes(f"{name}_sum") as seconds:
        await Attempts(store, rows)()
    assert counted == {(): 1}
    assert seconds == {(): 3.0}


@pytest.mark.parametrize(
    ("reason", "state", "is_fallback"),
    [
        (Reason.EMBEDDER_UNAVAILABLE, WriteState.PENDING, True),
        (Reason.VECTOR_STORE_UNAVAILABLE, WriteState.PENDING, True),
        (Reason.FOLLOWING, WriteState.PENDING, False),
        (Reason.QUEUED, WriteState.PENDING, False),
        (Reason.EMBEDDING_REFUSED, WriteState.FAILED, False),
    ],
)
async def test_a_vector_that_is_missing_is_counted_by_its_reason(
    breaker: Breaker, reason: Reason, state: WriteState, *, is_fallback: bool
) -> None:
    provider = FakeProvider()
    embedder = Embedder(provider, VectorCache(provider.model), breaker)
    archive = _Missing(VectorWrite(state, reason))
    writer = EmbeddingWriter(archive=archive, embedder=embedder, on_pending=lambda: None)
    with (
        changes("datastorage_dualwrite_failure_total") as failed,
        changes("datastorage_fallback_mode_total") as fallback,
        changes("datastorage_dualwrite_success_total") as succeeded,
    ):
        await writer.store(RECORDS)
    assert failed == {(reason.label,): len(RECORDS)}
    assert fallback == ({(): len(RECORDS)} if is_fallback else {})
    assert succeeded == {}


class _Missing:
    """An archive that stores all records without their vectors."""

    def __init__(self, write: VectorWrite) -> None:
        self._write = write

    async def write(self, records: Sequence[Record], *_: object, **__: object) -> list[StoredRecord]:
        return [StoredRecord(each.content_hash, STORED_AT, self._write, is_new=True) for each in records]


def _ages() -> list[tuple[str, RecordKey]]:
    first = RecordKey("first", 1, STORED_AT - timedelta(seconds=3), b"")
    return [("first", first), ("later", RecordKey("later", 2, STORED_AT - timedelta(hours=5), b""))]


async def test_an_outage_counts_every_record_that_it_kept_from_being_stored(
    breaker: Breaker, spawn: Spawn
) -> None:
    archive = FakeArchive()
    archive.failures = [TransientError("PostgreSQL is away")]
    with changes(WRITES) as written:
        await store(breaker, spawn, archive, "a", "b")
    assert written == {("failure", TABLE): 2, (DONE, TABLE): 2}


async def test_a_rejected_record_makes_no_failures_of_the_others(breaker: Breaker, spawn: Spawn) -> None:
    with changes(WRITES) as written:
        await store(breaker, spawn, FakeArchive(bad=frozenset({"bad"})), "a", "b", "bad", "c")
    assert written == {("rejected", TABLE): 1, (DONE, TABLE): 3}


async def test_a_batch_that_is_refused_and_stored_in_halves_makes_no_failures(
    breaker: Breaker, spawn: Spawn
) -> None:
    archive = FakeArchive()
    archive.failures = [WorkRefusedError("too much at once")]
    with changes(WRITES) as written:
        await store(breaker, spawn, archive, "a", "b")
    assert written == {(DONE, TABLE): 2}


class _Interrupted(FakeArchive):
    """PostgreSQL does not finish the commits with one record: that of its batch, and those with it alone."""

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        if any(record.name == "slow" for record in records) and len(self.batches) < 5:
            self.batches.append(len(records))
            raise WorkRefusedError("a person cancels each of its statements")
        return await super().store(records)

    store_bare = store


async def test_a_record_that_waits_counts_by_itself_alone(breaker: Breaker, spawn: Spawn) -> None:
    with changes(WRITES) as written:
        await store(breaker, spawn, _Interrupted(), "a", "slow")
    assert written[DONE, TABLE] == 2
    assert 1 <= written["failure", TABLE] <= 2


async def test_an_outage_that_looks_like_a_refusal_counts_every_record(spawn: Spawn) -> None:
    trial, archive = Probe(), FakeArchive()
    archive.failures = [WorkRefusedError("no room on the disk")]
    trial.errors = [TransientError("no room on the disk")]
    breaker = Breaker(Dependency.POSTGRES, Probe(), trial=trial, pace=BreakerPace(first=0.01, max=0.01))
    with changes(WRITES) as written:
        await store(breaker, spawn, archive, "a", "b")
    assert written == {("failure", TABLE): 2, (DONE, TABLE): 2}
    await breaker.close()


class _RefusedGroup(FakeArchive):
    async def store(self, records: Sequence[Record], *, whole: bool = False) -> list[StoredRecord]:
        raise WorkRefusedError(f"a rule refuses {len(records)}" if whole else "not as a whole")

    store_bare = store

    async def rehearse(self, records: Sequence[Record]) -> None:
        raise WorkRefusedError(f"a rule refuses {len(records)}")


async def test_a_refused_group_is_one_failure_for_each_record(breaker: Breaker) -> None:
    archive = _RefusedGroup()
    groups = Groups(writer=archive, rehearse=archive.rehearse, breaker=breaker)
    with changes(WRITES) as written, pytest.raises(GroupRefusedError):
        await groups.store(RECORDS)
    assert written == {("failure", TABLE): 3}


async def test_a_group_that_is_given_up_in_an_outage_that_looks_like_a_refusal_counts() -> None:
    trial, archive = Probe(), _RefusedGroup()
    trial.errors = [TransientError("no room on the disk")] * 1000
    breaker = Breaker(Dependency.POSTGRES, Probe(), trial=trial, pace=BreakerPace(first=0.01, max=0.01))
    groups = Groups(writer=archive, rehearse=archive.rehearse, breaker=breaker)
    with changes(WRITES) as written:
        task = asyncio.create_task(groups.store(RECORDS))
        await eventually(lambda: not breaker.serving)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert written == {("failure", TABLE): 3}
    await breaker.close()


class Entrance:
    """The entrance of requests."""

    def __init__(self, *, max_items: int = 10) -> None:
        self.intake = Intake(max_items=max_items, max_bytes=2**20)
        self.breaker = Breaker(Dependency.POSTGRES, Probe(), pace=NEVER)
        self.submissions = Submissions(
            intake=self.intake,
            groups=no_groups(self.breaker),
            breakers=[self.breaker],
            pace=Pace(commit_seconds=0.01),
        )

    async def refuse(self, records: Sequence[Record], error: type[Exception]) -> None:
        with pytest.raises(error):
            await self.submissions.store(records)

    async def refuse_whole(self, records: Sequence[Record], error: type[Exception]) -> None:
        with pytest.raises(error):
            await self.submissions.store_whole(records)


RECORDS = [record_of(body) for body in bodies("a", "b", "c")]


async def test_records_of_a_request_that_is_refused_at_once_are_failures() -> None:
    entrance = Entrance(max_items=1)
    with changes(WRITES) as written:
        await entrance.refuse(RECORDS, TransientError)
    assert written == {("failure", TABLE): 3}, "while the operator starts"
    with changes(WRITES) as written:
        await entrance.refuse_whole(RECORDS, TransientError)
    assert written == {("failure", TABLE): 3}, "of a group as well"
    entrance.submissions.open()
    entrance.intake.add(WorkItem(RECORDS[0], RequestOrigin(asyncio.get_running_loop().create_future())))
    with changes(WRITES) as written:
        await entrance.refuse(RECORDS[:2], OverloadedError)
    assert written == {("failure", TABLE): 2}, "while there is no room"


async def test_records_that_wait_for_too_long_are_not_known_to_have_failed() -> None:
    entrance = Entrance()
    entrance.submissions.open()
    with changes(WRITES) as written:
        await entrance.refuse(RECORDS, TransientError)
    assert written == {}


async def test_an_outage_is_a_failure_of_each_request() -> None:
    entrance = Entrance()
    entrance.submissions.open()

    async def fail() -> None:
        raise TransientError("no connection")

    with pytest.raises(TransientError):
        await entrance.breaker.attempt(fail)
    with changes(WRITES) as written:
        await entrance.refuse(RECORDS, TransientError)
    assert written == {("failure", TABLE): 3}
    await entrance.breaker.close()


@pytest.mark.parametrize(
    ("pointer", "field"),
    [
        ("/spec/action", "spec.action"),
        ("/spec/resourceRef/name", "spec.resourceRef"),
        ("/spec/details/a/b", "spec.details"),
        ("/metadata/name", "metadata.name"),
        ("/spec", "spec"),
        ("/spec/invented", "spec"),
        ("/spec/correlationID", "spec.correlationID"),
        ("/metadata/labels/a~1b", "metadata.labels"),
        ("/kind", "kind"),
        ("/invented", "_OTHER"),
        ("", "_OTHER"),
        ("/", "_OTHER"),
        ("spec", "_OTHER"),
    ],
)
def test_a_refused_value_is_counted_by_the_field_of_the_schema(pointer: str, field: str) -> None:
    with changes(REFUSED) as refused:
        invalid([FieldProblem(pointer, "wrong", Code.TOO_LONG)])
    assert refused == {(field, "too_long"): 1}


def test_a_room_that_is_full_is_counted() -> None:
    room = Room(10, Limit.REQUEST_BYTES)
    with changes(LIMITS) as hit:
        room.take("ann", 10)
    assert hit == {}
    with changes(LIMITS) as hit, pytest.raises(OverloadedError):
        room.take("ann", 1)
    assert hit == {("request_bytes",): 1}


def test_one_identity_leaves_room_for_another() -> None:
    room = Room(10, Limit.REQUEST_BYTES, reserved=4)
    with room.share("ann") as take:
        take(6)
        with pytest.raises(OverloadedError):
            take(1)
        room.take("bob", 4)
        with pytest.raises(OverloadedError):
            room.take("bob", 1)
    room.take("bob", 2)
    room.free("bob", 6)
    room.take("ann", 6)


async def test_the_questions_of_one_identity_do_not_keep_those_of_another_waiting() -> None:
    answers, held, release = Answers(AnswerLimits(made_at_once=3)), Counter[str](), asyncio.Event()

    async def ask(identity: str) -> None:
        async with answers.turn(identity):
            held[identity] += 1
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for identity in ("ann",) * 20 + ("bob",):
            group.create_task(ask(identity))
        await eventually(lambda: "bob" in held)
        assert held == {"ann": 2, "bob": 1}
        release.set()
    assert held == {"ann": 20, "bob": 1}


async def test_a_question_that_gets_no_turn_is_counted() -> None:
    answers = Answers(AnswerLimits(made_at_once=1, patience_seconds=0.01))
    with changes(LIMITS) as hit:
        async with answers.turn("ann"):
            pass
    assert hit == {}
    with changes(LIMITS) as hit, pytest.raises(OverloadedError):
        async with answers.turn("ann"), answers.turn("ann"):
            pass
    assert hit == {("answers",): 1}


async def test_a_request_too_many_is_counted() -> None:
    statuses: list[int] = []

    async def never(*_: object) -> None:
        raise AssertionError

    async def note(message: object) -> None:
        assert isinstance(message, dict)
        statuses.extend([message["status"]] if "status" in message else [])

    app = AtOnce(never, most=0, prefix="/api/")
    with changes(LIMITS) as hit:
        await app({"type": "http", "path": "/api/v1"}, never, note)  # type: ignore[arg-type]
    assert (statuses, hit) == ([503], {("requests",): 1})


async def test_each_review_is_timed_and_remembered_answers_are_not() -> None:
    cache: ReviewCache[str, str] = ReviewCache(Review.TOKEN)

    async def yes() -> str:
        return "ann"

    async def away() -> str:
        raise ClusterUnavailableError("no answer")

    with changes("datastorage_caller_review_duration_seconds_count") as timed:
        for _ in range(3):
            await cache.get("a", yes)
    assert timed == {("token",): 1}
    with (
        changes("datastorage_caller_review_duration_seconds_count") as timed,
        changes("datastorage_caller_reviews_total") as reviewed,
        pytest.raises(ClusterUnavailableError),
    ):
        await cache.get("b", away)
    assert timed == {("token",): 1}
    assert reviewed == {("miss", "token"): 1, ("error", "token"): 1}


async def test_a_diverged_record_is_still_a_success(breaker: Breaker, spawn: Spawn) -> None:
    row = StoredRecord(b"x" * 32, STORED_AT, is_new=True, diverged=True)

    class Diverging(FakeArchive):
        async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
            return [row for _ in records]

    with changes(WRITES) as written:
        await store(breaker, spawn, Diverging(), "a")
    assert written == {("success", TABLE): 1}
