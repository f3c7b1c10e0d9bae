"""The intake of objects: each generation once, within its bounds, and every drop leads to a sweep."""

import asyncio
import time
from typing import Any

import pytest

from datastorage.metrics import Verdict
from datastorage.pipeline.register import Memory, Register
from datastorage.records.record import StoredRecord
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.reading.requestobject import claim_of, name_of
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
from tests.support.entrance import Entrance
from tests.support.fakes import STORED_AT
from tests.support.tasks import Spawn

STORED = StoredRecord(b"h" * 32, STORED_AT)


def test_a_generation_is_taken_in_once(entrance: Entrance) -> None:
    body = audit_record()
    assert entrance.offer(body) is Verdict.ACCEPTED
    assert entrance.offer(body) is Verdict.DUPLICATE
    assert entrance.intake.depth == 1


async def test_it_stays_known_until_it_is_settled_or_released(entrance: Entrance) -> None:
    body = audit_record()
    entrance.offer(body)
    await entrance.take_names()
    assert entrance.offer(body) is Verdict.DUPLICATE
    entrance.register.forget(key_of_body(body))
    assert entrance.offer(body) is Verdict.ACCEPTED
    entrance.register.done(key_of_body(body), 1)
    assert entrance.offer(body) is Verdict.DUPLICATE


def test_another_generation_or_uid_is_another_item(entrance: Entrance) -> None:
    body = action_trace()
    later = {**body, "metadata": {**body["metadata"], "generation": 2}}
    recreated = action_trace(name=body["metadata"]["name"])
    entrance.register.done(key_of_body(body), 1)
    assert entrance.offer(later) is Verdict.ACCEPTED
    assert entrance.offer(recreated) is Verdict.ACCEPTED


@pytest.mark.parametrize("phase", ["Recording", "Stored", "Degraded", "Rejected"])
def test_an_object_whose_status_says_so_is_settled(entrance: Entrance, phase: str) -> None:
    body = with_status(action_trace(generation=3), phase=phase)
    assert entrance.offer(body) is Verdict.SETTLED
    body["status"]["observedGeneration"] = 2
    assert entrance.offer(body) is Verdict.ACCEPTED


@pytest.mark.parametrize("status", [None, {}, {"phase": "Pending", "observedGeneration": 1}])
def test_a_pending_object_is_taken_in(entrance: Entrance, status: dict[str, object] | None) -> None:
    assert entrance.offer({**audit_record(), "status": status}) is Verdict.ACCEPTED


async def test_a_full_intake_asks_for_a_sweep() -> None:
    entrance = Entrance(2)
    bodies = [audit_record() for _ in range(3)]
    verdicts = [entrance.offer(body) for body in bodies]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.FULL]
    assert entrance.overflows == 1
    await entrance.take_names(items=1)
    # The dropped object was not remembered: it can come again.
    assert entrance.offer(bodies[2]) is Verdict.ACCEPTED


def test_a_known_object_is_no_overflow() -> None:
    entrance = Entrance(1)
    body = audit_record()
    entrance.offer(body)
    assert entrance.offer(body) is Verdict.DUPLICATE
    assert entrance.offer(with_status(audit_record(), phase="Stored")) is Verdict.SETTLED
    assert entrance.overflows == 0


async def test_bytes_are_bounded_too() -> None:
    entrance = Entrance(1000, 100_000)
    big = {**AUDIT_SPEC, "message": "x" * 60_000}
    verdicts = [entrance.offer(audit_record(big)) for _ in range(3)]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.FULL]
    await entrance.take_names()
    assert entrance.offer(audit_record(big)) is Verdict.ACCEPTED


async def test_put_waits_for_room(spawn: Spawn) -> None:
    entrance = Entrance(1)
    entrance.offer(audit_record())
    waiting = [spawn(entrance.put(audit_record())) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    assert entrance.intake.depth == 1
    for _ in range(3):
        await entrance.take_names()
        await settle()
        assert entrance.intake.depth == 1
    assert [await task for task in waiting] == [Verdict.ACCEPTED] * 3
    assert entrance.overflows == 0


async def test_put_recognises_a_duplicate_that_was_taken_in_while_it_waited(spawn: Spawn) -> None:
    entrance = Entrance(1)
    entrance.offer(audit_record())
    body = audit_record()
    waiting = [spawn(entrance.put(body)) for _ in range(2)]
    await settle()
    await entrance.take_names()
    await settle()
    await entrance.take_names()
    assert sorted([await task for task in waiting]) == [Verdict.ACCEPTED, Verdict.DUPLICATE]


async def test_the_deleted_event_of_a_record_that_was_just_stored_is_ignored(entrance: Entrance) -> None:
    """Our own status write moves it out of the watch's selector: it arrives as deleted, with old content."""
    body = audit_record()
    entrance.register.done(key_of_body(body), 1)
    assert entrance.offer_last_copy(body) is Verdict.DUPLICATE
    assert entrance.register.last_copies == []


def test_a_deleted_object_is_known_once_its_content_is_in_postgresql(entrance: Entrance) -> None:
    body = audit_record()
    key = key_of_body(body)
    assert not entrance.objects.is_known(AUDIT_RECORD, body)
    entrance.offer(body)
    assert not entrance.objects.is_known(AUDIT_RECORD, body), "a crash would lose it"
    entrance.register.committed(key)
    assert entrance.objects.is_known(AUDIT_RECORD, body)
    entrance.register.done(key, 1)
    assert entrance.objects.is_known(AUDIT_RECORD, body)
    assert not entrance.objects.is_known(AUDIT_RECORD, {**body, "spec": {**body["spec"], "message": "other"}})
    assert not entrance.objects.is_known(AUDIT_RECORD, {})


async def test_a_deleted_object_that_was_never_stored_is_stored_from_its_event(entrance: Entrance) -> None:
    body = audit_record()
    assert entrance.offer_last_copy(body) is Verdict.ACCEPTED
    (item,) = await entrance.take()
    assert item.record.key.uid == body["metadata"]["uid"]
    await item.origin.committed(STORED)
    assert entrance.statuses.idle, "there is no object whose status could be written"
    assert entrance.offer(body) is Verdict.DUPLICATE


async def test_force_stores_an_object_whose_status_says_stored(entrance: Entrance) -> None:
    body = with_status(audit_record(), phase="Stored")
    assert await entrance.put(body) is Verdict.SETTLED
    assert await entrance.put(body, force=True) is Verdict.ACCEPTED
    assert await entrance.put(body, force=True) is Verdict.DUPLICATE


async def test_an_object_that_was_read_after_it_was_settled_is_new(entrance: Entrance) -> None:
    """A restored cluster has stored objects without a status again."""
    body = audit_record()
    before = time.monotonic()
    entrance.register.done(key_of_body(body), 1)
    assert await entrance.put(body, read_at=before) is Verdict.DUPLICATE
    assert await entrance.put(body, read_at=time.monotonic() + 1) is Verdict.ACCEPTED


def test_another_content_of_a_known_generation_is_another_item(entrance: Entrance) -> None:
    body = action_trace({**TRACE_SPEC, "parameters": {"history": "first"}}, generation=2)
    other = {**body, "spec": {**TRACE_SPEC, "parameters": {"history": "second"}}}
    settled = {**body, "spec": {**TRACE_SPEC, "parameters": {"history": "third"}}}
    assert entrance.offer(body) is Verdict.ACCEPTED
    entrance.register.done(key_of_body(settled), 2)
    assert entrance.offer(other) is Verdict.ACCEPTED
    labelled = {**body, "metadata": {**body["metadata"], "labels": {"team": "payments"}}}
    assert entrance.offer(labelled) is Verdict.DUPLICATE, "a label is no generation"


@pytest.mark.parametrize("phase", ["Recording", "Degraded", "Rejected"])
def test_a_last_copy_is_stored_whatever_its_status_says(entrance: Entrance, phase: str) -> None:
    """Its row may be gone, and after this nobody can look again."""
    body = with_status(action_trace(), phase=phase)
    assert entrance.offer_last_copy(body) is Verdict.ACCEPTED


def test_a_deletion_that_waits_for_a_finalizer_is_the_same_content(entrance: Entrance) -> None:
    for body in (audit_record(), action_trace(generation=3)):
        metadata = {**body["metadata"], "deletionTimestamp": "2026-03-05T11:00:00Z"}
        waiting = {**body, "metadata": {**metadata, "generation": metadata["generation"] + 1}}
        assert entrance.offer(body) is Verdict.ACCEPTED
        assert entrance.offer(waiting) is Verdict.DUPLICATE


def test_the_memory_of_settled_objects_is_bounded() -> None:
    entrance = Entrance(register=Register(Memory(generations=2)))
    bodies = [audit_record() for _ in range(3)]
    for body in bodies:
        entrance.register.done(key_of_body(body), 1)
    assert [entrance.offer(body) for body in bodies] == [
        Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.DUPLICATE,
    ]  # fmt: skip


async def test_a_batch_is_limited_in_items_and_keeps_the_order(entrance: Entrance) -> None:
    bodies = [audit_record() for _ in range(5)]
    for body in bodies:
        entrance.offer(body)
    names = [body["metadata"]["name"] for body in bodies]
    assert [await entrance.take_names(items=2) for _ in range(3)] == [names[:2], names[2:4], names[4:]]


async def test_a_batch_is_limited_in_bytes_but_never_empty(entrance: Entrance) -> None:
    sizes = (60_000, 60_000, 30_000, 200_000)
    for size in sizes:
        entrance.offer(audit_record({**AUDIT_SPEC, "message": "x" * size}))
    counts = [len(await entrance.take_names(size=100_000)) for _ in range(3)]
    assert counts == [1, 2, 1]


async def test_what_is_left_to_another_process_is_taken_in_only_as_a_last_copy(entrance: Entrance) -> None:
    body = audit_record()
    entrance.objects.only_last_copies = True
    assert entrance.offer(body) is Verdict.WAITING
    assert entrance.intake.depth == 0
    assert entrance.offer_last_copy(body) is Verdict.ACCEPTED
    assert entrance.intake.depth == 1


async def test_a_batch_waits_a_moment_for_more_items(entrance: Entrance, spawn: Spawn) -> None:
    batch = spawn(entrance.intake.take(max_items=3, max_bytes=2**30, linger_seconds=1.0))
    await settle()
    for _ in range(3):
        entrance.offer(audit_record())
        await settle()
    assert len(await batch) == 3


async def test_two_takers_never_get_an_empty_batch(entrance: Entrance, spawn: Spawn) -> None:
    takers = {spawn(entrance.take(10)) for _ in range(2)}
    await settle()
    entrance.offer(audit_record())
    done, pending = await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
    await settle()
    assert [len(task.result()) for task in done] == [1]
    assert not any(task.done() for task in pending)


async def test_a_status_update_carries_what_the_object_says(entrance: Entrance) -> None:
    hold = {"datastorage.kubernaut.io/legal-hold": "true"}
    at_once = {**AUDIT_SPEC, "ttlSecondsAfterStored": 0}
    entrance.offer(audit_record(at_once, labels=hold, resourceVersion="77"))
    entrance.offer(audit_record())
    for item in await entrance.take():
        await item.origin.committed(STORED)
    own, default = [(await entrance.statuses.get(AUDIT_RECORD)).version for _ in range(2)]
    assert (own.ttl_seconds, own.held, own.resource_version, own.final) == (0, True, "77", True)
    assert (default.ttl_seconds, default.held) == (TTL_SECONDS, False)
    entrance.offer(action_trace())
    [item] = await entrance.take()
    await item.origin.committed(STORED)
    assert (await entrance.statuses.get(ACTION_TRACE)).version.final is False


def test_a_last_copy_is_taken_in_even_where_there_is_no_room() -> None:
    entrance = Entrance(1)
    entrance.offer(audit_record(name="first"))
    assert entrance.offer_last_copy(audit_record(name="gone")) is Verdict.ACCEPTED
    assert [ref.name for ref in entrance.register.last_copies] == ["gone"]
    assert entrance.overflows == 0


def test_a_last_copy_is_known_until_it_is_committed(entrance: Entrance) -> None:
    """A record whose deletion was reported while it was under way already is one, too."""
    body = audit_record(name="gone")
    entrance.offer(body)
    assert entrance.register.last_copies == []
    assert entrance.offer_last_copy(body) is Verdict.DUPLICATE
    assert [ref.name for ref in entrance.register.last_copies] == ["gone"]
    entrance.register.committed(key_of_body(body))
    assert entrance.register.last_copies == []
    entrance.offer_last_copy(body)
    assert entrance.register.last_copies == [], "what is committed is not lost with this process"


async def test_an_object_that_cannot_be_read_holds_nothing_up(
    entrance: Entrance, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {**audit_record(name="bad"), "spec": "no spec at all"}
    assert await entrance.put(bad) is Verdict.UNREADABLE
    assert entrance.offer(bad) is Verdict.UNREADABLE, "and is not logged with every event"
    assert entrance.offer(audit_record(name="good")) is Verdict.ACCEPTED
    assert [record.object_name for record in caplog.records] == ["bad"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost", ["uid", "resourceVersion", "namespace", "name", "generation", None])
async def test_an_object_without_server_fields_holds_nothing_up(
    entrance: Entrance, caplog: pytest.LogCaptureFixture, lost: str | None
) -> None:
    """A proxy may have made it."""
    whole = audit_record(name="bad")
    metadata = {name: value for name, value in whole["metadata"].items() if name != lost}
    bad = {**whole, "metadata": metadata} if lost else {**whole, "metadata": None}
    assert await entrance.put(bad) is Verdict.UNREADABLE
    assert await entrance.put(bad, force=True) is Verdict.UNREADABLE
    assert entrance.offer(bad) is Verdict.UNREADABLE
    assert entrance.offer_last_copy(bad) is Verdict.UNREADABLE
    assert len(caplog.records) == 1, "it is logged once"
    assert entrance.offer(audit_record(name="good")) is Verdict.ACCEPTED


@pytest.mark.parametrize("bad", [None, [], "text", {}, {"metadata": []}, {"metadata": {"uid": {}}}])
def test_a_value_that_is_no_object_is_unreadable(
    entrance: Entrance, caplog: pytest.LogCaptureFixture, bad: Any
) -> None:
    for _ in range(2):
        assert entrance.objects.offer(AUDIT_RECORD, bad) is Verdict.UNREADABLE
    assert len(caplog.records) == 1


def test_a_generation_whose_status_is_under_way_is_a_duplicate_and_no_last_copy(entrance: Entrance) -> None:
    body = audit_record()
    assert entrance.register.start(key_of_body(body), committed=True)
    assert not entrance.register.start(key_of_body(body), committed=True)
    assert entrance.offer(body) is Verdict.DUPLICATE
    # It is stored: a deletion meanwhile is no loss to report.
    entrance.offer_last_copy(body)
    assert entrance.register.last_copies == []
    entrance.register.forget(key_of_body(body))
    assert entrance.register.start(key_of_body(body), committed=True)


async def test_an_object_that_stands_for_a_request_has_its_claim_and_counts_until_it_is_stored(
    entrance: Entrance,
) -> None:
    name = name_of(b"i" * 32)
    with entrance.created.place("payments", name) as place:
        place.is_taken = True
    body = audit_record(name=name)
    # The kind alone makes the difference: a trace of that name stands for nothing.
    for each in (audit_record(), action_trace(name=name), body):
        assert entrance.offer(each) is Verdict.ACCEPTED
    items = await entrance.take()
    assert [item.record.claim for item in items] == [None, None, claim_of(body)]
    for item in items[:2]:
        await item.origin.committed(STORED)
    assert entrance.created.has("payments", name)
    await items[2].origin.committed(STORED)
    assert not entrance.created.has("payments", name)
