"""The intake: each generation once, never more than fits, nothing dropped without a word."""

import asyncio
import time
from typing import Any

import pytest

from datastorage.pipeline import intake as intake_module
from datastorage.pipeline import reading
from datastorage.pipeline.intake import Intake, Verdict
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from harness.objects import (
    AUDIT_SPEC,
    TRACE_SPEC,
    TTL_SECONDS,
    action_trace,
    audit_record,
    key_of_body,
    with_status,
)
from harness.polling import settle
from tests.unit.conftest import Spawn


def small(overflows: list[None], *, items: int = 2, size: int = 2**24) -> Intake:
    return Intake(
        max_items=items, max_bytes=size, default_ttl_seconds=TTL_SECONDS,
        on_overflow=lambda: overflows.append(None),
    )  # fmt: skip


async def take(intake: Intake, items: int = 1000, size: int = 2**30) -> list[str]:
    batch = await intake.take(max_items=items, max_bytes=size, linger_seconds=0)
    return [item.ref.name for item in batch]


def test_a_generation_is_taken_in_once(intake: Intake) -> None:
    body = audit_record()
    assert intake.offer(AUDIT_RECORD, body) is Verdict.ACCEPTED
    assert intake.offer(AUDIT_RECORD, body) is Verdict.DUPLICATE
    assert intake.depth == 1


async def test_it_stays_known_until_it_is_settled_or_released(intake: Intake) -> None:
    body = audit_record()
    intake.offer(AUDIT_RECORD, body)
    await take(intake)
    assert intake.offer(AUDIT_RECORD, body) is Verdict.DUPLICATE
    intake.release(key_of_body(body))
    assert intake.offer(AUDIT_RECORD, body) is Verdict.ACCEPTED
    intake.settle(key_of_body(body), 1)
    assert intake.offer(AUDIT_RECORD, body) is Verdict.DUPLICATE


def test_another_generation_or_uid_is_another_item(intake: Intake) -> None:
    body = action_trace()
    later = {**body, "metadata": {**body["metadata"], "generation": 2}}
    recreated = action_trace(name=body["metadata"]["name"])
    intake.settle(key_of_body(body), 1)
    assert intake.offer(ACTION_TRACE, later) is Verdict.ACCEPTED
    assert intake.offer(ACTION_TRACE, recreated) is Verdict.ACCEPTED


@pytest.mark.parametrize("phase", ["Recording", "Stored", "Degraded", "Rejected"])
def test_what_its_status_says_is_done_is_settled(intake: Intake, phase: str) -> None:
    body = with_status(action_trace(generation=3), phase=phase)
    assert intake.offer(ACTION_TRACE, body) is Verdict.SETTLED
    body["status"]["observedGeneration"] = 2
    assert intake.offer(ACTION_TRACE, body) is Verdict.ACCEPTED


@pytest.mark.parametrize("status", [None, {}, {"phase": "Pending", "observedGeneration": 1}])
def test_what_is_pending_is_taken_in(intake: Intake, status: dict[str, object] | None) -> None:
    assert intake.offer(AUDIT_RECORD, {**audit_record(), "status": status}) is Verdict.ACCEPTED


async def test_a_full_intake_asks_for_a_sweep(overflows: list[None]) -> None:
    intake = small(overflows)
    bodies = [audit_record() for _ in range(3)]
    verdicts = [intake.offer(AUDIT_RECORD, body) for body in bodies]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.FULL]
    assert len(overflows) == 1
    await take(intake, items=1)
    # What did not fit was not remembered: it can come again.
    assert intake.offer(AUDIT_RECORD, bodies[2]) is Verdict.ACCEPTED


def test_a_known_object_is_no_overflow(overflows: list[None]) -> None:
    intake = small(overflows, items=1)
    body = audit_record()
    intake.offer(AUDIT_RECORD, body)
    assert intake.offer(AUDIT_RECORD, body) is Verdict.DUPLICATE
    assert intake.offer(AUDIT_RECORD, with_status(audit_record(), phase="Stored")) is Verdict.SETTLED
    assert overflows == []


async def test_bytes_are_bounded_too(overflows: list[None]) -> None:
    intake = small(overflows, items=1000, size=100_000)
    big = {**AUDIT_SPEC, "message": "x" * 60_000}
    verdicts = [intake.offer(AUDIT_RECORD, audit_record(big)) for _ in range(3)]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.FULL]
    await take(intake)
    assert intake.offer(AUDIT_RECORD, audit_record(big)) is Verdict.ACCEPTED


async def test_put_waits_for_room(overflows: list[None], spawn: Spawn) -> None:
    intake = small(overflows, items=1)
    intake.offer(AUDIT_RECORD, audit_record())
    waiting = [spawn(intake.put(AUDIT_RECORD, audit_record(), read_at=0.0)) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    assert intake.depth == 1
    for _ in range(3):
        await take(intake)
        await settle()
        assert intake.depth == 1
    assert [await task for task in waiting] == [Verdict.ACCEPTED] * 3
    assert overflows == []


async def test_put_is_told_of_a_duplicate_that_was_taken_in_while_it_waited(
    overflows: list[None], spawn: Spawn
) -> None:
    intake = small(overflows, items=1)
    intake.offer(AUDIT_RECORD, audit_record())
    body = audit_record()
    waiting = [spawn(intake.put(AUDIT_RECORD, body, read_at=0.0)) for _ in range(2)]
    await settle()
    await take(intake)
    await settle()
    await take(intake)
    assert sorted([await task for task in waiting]) == [Verdict.ACCEPTED, Verdict.DUPLICATE]


async def test_the_deleted_event_of_what_was_just_stored_is_ignored(intake: Intake) -> None:
    """Our own status write moves it out of the watch's selector: it arrives as deleted, with old content."""
    body = audit_record()
    intake.settle(key_of_body(body), 1)
    assert intake.offer_last_copy(AUDIT_RECORD, body) is Verdict.DUPLICATE
    assert intake.last_copies == []


async def test_a_deleted_object_that_was_never_stored_is_stored_from_its_event(intake: Intake) -> None:
    body = audit_record()
    assert intake.offer_last_copy(AUDIT_RECORD, body) is Verdict.ACCEPTED
    (item,) = await intake.take(max_items=1, max_bytes=1, linger_seconds=0)
    assert item.deleted
    assert item.ref.uid == body["metadata"]["uid"]


async def test_force_stores_what_its_status_calls_stored(intake: Intake) -> None:
    body = with_status(audit_record(), phase="Stored")
    assert await intake.put(AUDIT_RECORD, body, read_at=0.0) is Verdict.SETTLED
    assert await intake.put(AUDIT_RECORD, body, read_at=0.0, force=True) is Verdict.ACCEPTED
    assert await intake.put(AUDIT_RECORD, body, read_at=0.0, force=True) is Verdict.DUPLICATE


async def test_what_was_read_after_it_was_settled_is_news(intake: Intake) -> None:
    """A restored cluster has objects without a status again, which the archive has."""
    body = audit_record()
    before = time.monotonic()
    intake.settle(key_of_body(body), 1)
    assert await intake.put(AUDIT_RECORD, body, read_at=before) is Verdict.DUPLICATE
    assert await intake.put(AUDIT_RECORD, body, read_at=time.monotonic() + 1) is Verdict.ACCEPTED


def test_another_content_of_a_known_generation_is_another_item(intake: Intake) -> None:
    body = action_trace({**TRACE_SPEC, "parameters": {"history": "first"}}, generation=2)
    other = {**body, "spec": {**TRACE_SPEC, "parameters": {"history": "second"}}}
    settled = {**body, "spec": {**TRACE_SPEC, "parameters": {"history": "third"}}}
    assert intake.offer(ACTION_TRACE, body) is Verdict.ACCEPTED
    intake.settle(key_of_body(settled), 2)
    assert intake.offer(ACTION_TRACE, other) is Verdict.ACCEPTED
    labelled = {**body, "metadata": {**body["metadata"], "labels": {"team": "payments"}}}
    assert intake.offer(ACTION_TRACE, labelled) is Verdict.DUPLICATE, "a label is no generation"


@pytest.mark.parametrize("phase", ["Recording", "Degraded", "Rejected"])
def test_a_last_copy_is_stored_whatever_its_status_says(intake: Intake, phase: str) -> None:
    """Its row may be gone, and after this nobody can look again."""
    body = with_status(action_trace(), phase=phase)
    assert intake.offer_last_copy(ACTION_TRACE, body) is Verdict.ACCEPTED


def test_a_deletion_that_waits_for_a_finalizer_is_the_same_content(intake: Intake) -> None:
    for body, kind in ((audit_record(), AUDIT_RECORD), (action_trace(generation=3), ACTION_TRACE)):
        metadata = {**body["metadata"], "deletionTimestamp": "2026-03-05T11:00:00Z"}
        waiting = {**body, "metadata": {**metadata, "generation": metadata["generation"] + 1}}
        assert intake.offer(kind, body) is Verdict.ACCEPTED
        assert intake.offer(kind, waiting) is Verdict.DUPLICATE


def test_the_memory_of_settled_objects_is_bounded(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_REMEMBERED", 2)
    bodies = [audit_record() for _ in range(3)]
    for body in bodies:
        intake.settle(key_of_body(body), 1)
    assert [intake.offer(AUDIT_RECORD, body) for body in bodies] == [
        Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.DUPLICATE,
    ]  # fmt: skip


async def test_a_batch_is_limited_in_items_and_keeps_the_order(intake: Intake) -> None:
    bodies = [audit_record() for _ in range(5)]
    for body in bodies:
        intake.offer(AUDIT_RECORD, body)
    names = [body["metadata"]["name"] for body in bodies]
    assert [await take(intake, items=2) for _ in range(3)] == [names[:2], names[2:4], names[4:]]


async def test_a_batch_is_limited_in_bytes_but_never_empty(intake: Intake) -> None:
    sizes = (60_000, 60_000, 30_000, 200_000)
    for size in sizes:
        intake.offer(AUDIT_RECORD, audit_record({**AUDIT_SPEC, "message": "x" * size}))
    counts = [len(await take(intake, size=100_000)) for _ in range(3)]
    assert counts == [1, 2, 1]


async def test_a_batch_waits_a_moment_for_company(intake: Intake, spawn: Spawn) -> None:
    batch = spawn(intake.take(max_items=3, max_bytes=2**30, linger_seconds=0.05))
    await settle()
    for _ in range(3):
        intake.offer(AUDIT_RECORD, audit_record())
        await settle()
    assert len(await batch) == 3


async def test_two_takers_never_get_an_empty_batch(intake: Intake, spawn: Spawn) -> None:
    takers = {spawn(intake.take(max_items=10, max_bytes=2**30, linger_seconds=0)) for _ in range(2)}
    await settle()
    intake.offer(AUDIT_RECORD, audit_record())
    done, pending = await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
    await settle()
    assert [len(task.result()) for task in done] == [1]
    assert not any(task.done() for task in pending)


def test_an_item_carries_what_the_cluster_must_be_told(intake: Intake) -> None:
    hold = {"datastorage.kubernaut.io/legal-hold": "true"}
    for spec, labels in (({**AUDIT_SPEC, "ttlSecondsAfterStored": 0}, hold), (AUDIT_SPEC, {})):
        intake.offer(AUDIT_RECORD, audit_record(spec, labels=labels, resourceVersion="77"))
    own, default = intake._queue
    assert (own.ttl_seconds, own.held, own.resource_version, own.final) == (0, True, "77", True)
    assert (default.ttl_seconds, default.held) == (TTL_SECONDS, False)
    intake.offer(ACTION_TRACE, action_trace())
    assert intake._queue[-1].final is False


def test_a_last_copy_is_taken_in_even_where_there_is_no_room(overflows: list[None]) -> None:
    intake = small(overflows, items=1)
    intake.offer(AUDIT_RECORD, audit_record(name="first"))
    assert intake.offer_last_copy(AUDIT_RECORD, audit_record(name="gone")) is Verdict.ACCEPTED
    assert [ref.name for ref in intake.last_copies] == ["gone"]
    assert overflows == []


def test_a_last_copy_is_known_until_it_is_committed(intake: Intake) -> None:
    """Also one whose deletion was reported while it was on its way already."""
    body = audit_record(name="gone")
    intake.offer(AUDIT_RECORD, body)
    assert intake.last_copies == []
    assert intake.offer_last_copy(AUDIT_RECORD, body) is Verdict.DUPLICATE
    assert [ref.name for ref in intake.last_copies] == ["gone"]
    intake.secure(key_of_body(body))
    assert intake.last_copies == []
    intake.offer_last_copy(AUDIT_RECORD, body)
    assert intake.last_copies == [], "what is committed is not lost with this process"


async def test_an_object_that_cannot_be_read_holds_nothing_up(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = reading.work_item

    def fail_on_bad(kind: Any, body: Any, **options: Any) -> Any:
        if body["metadata"]["name"] == "bad":
            raise RecursionError
        return read(kind, body, **options)

    monkeypatch.setattr(intake_module, "work_item", fail_on_bad)
    bad = audit_record(name="bad")
    assert await intake.put(AUDIT_RECORD, bad, read_at=0.0) is Verdict.UNREADABLE
    assert intake.offer(AUDIT_RECORD, bad) is Verdict.UNREADABLE, "and is not logged with every event"
    assert intake.offer(AUDIT_RECORD, audit_record(name="good")) is Verdict.ACCEPTED
    assert [record.object_name for record in caplog.records] == ["bad"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost", ["uid", "resourceVersion", "namespace", "name", "generation", None])
async def test_an_object_that_lacks_what_the_server_gives_holds_nothing_up(
    intake: Intake, caplog: pytest.LogCaptureFixture, lost: str | None
) -> None:
    """A proxy may have made it."""
    whole = audit_record(name="bad")
    metadata = {name: value for name, value in whole["metadata"].items() if name != lost}
    bad = {**whole, "metadata": metadata} if lost else {**whole, "metadata": None}
    assert await intake.put(AUDIT_RECORD, bad, read_at=0.0) is Verdict.UNREADABLE
    assert await intake.put(AUDIT_RECORD, bad, read_at=0.0, force=True) is Verdict.UNREADABLE
    assert intake.offer(AUDIT_RECORD, bad) is Verdict.UNREADABLE
    assert intake.offer_last_copy(AUDIT_RECORD, bad) is Verdict.UNREADABLE
    assert len(caplog.records) == 1, "it is logged once"
    assert intake.offer(AUDIT_RECORD, audit_record(name="good")) is Verdict.ACCEPTED


@pytest.mark.parametrize("bad", [None, [], "text", {}, {"metadata": []}, {"metadata": {"uid": {}}}])
def test_what_is_no_object_is_unreadable(intake: Intake, caplog: pytest.LogCaptureFixture, bad: Any) -> None:
    for _ in range(2):
        assert intake.offer(AUDIT_RECORD, bad) is Verdict.UNREADABLE
    assert len(caplog.records) == 1


def test_what_is_under_way_again_is_known_and_its_loss_costs_nothing(intake: Intake) -> None:
    body = audit_record()
    assert intake.begin(key_of_body(body))
    assert not intake.begin(key_of_body(body))
    assert intake.offer(AUDIT_RECORD, body) is Verdict.DUPLICATE
    # It is stored: that somebody deletes it meanwhile is no loss to tell of.
    intake.offer_last_copy(AUDIT_RECORD, body)
    assert intake.last_copies == []
    intake.release(key_of_body(body))
    assert intake.begin(key_of_body(body))
