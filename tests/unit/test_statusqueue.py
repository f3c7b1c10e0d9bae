"""The queue of status updates: each kind has its own, within a bound for all."""

import asyncio
from typing import Any

import pytest

from datastorage.pipeline.clusterobject import version_of
from datastorage.pipeline.statusqueue import StatusQueue, StatusUpdate
from datastorage.records.record import StoredRecord
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from harness.objects import action_trace, audit_record, key_of_body, kind_of
from harness.polling import DEADLINE_SECONDS, settle
from tests.support.fakes import STORED_AT
from tests.support.tasks import Spawn


def update_of(body: dict[str, Any]) -> StatusUpdate:
    version = version_of(kind_of(body), body, key_of_body(body), default_ttl_seconds=60)
    return StatusUpdate(version, StoredRecord(b"h" * 32, STORED_AT))


async def test_each_kind_is_taken_out_by_itself_and_in_order() -> None:
    queue = StatusQueue()
    trace, first, second = (update_of(body) for body in (action_trace(), audit_record(), audit_record()))
    for update in (trace, first, second):
        await queue.put(update)
    assert [await queue.get(AUDIT_RECORD), await queue.get(AUDIT_RECORD)] == [first, second]
    assert await queue.get(ACTION_TRACE) is trace


async def test_it_is_idle_when_everything_is_written() -> None:
    queue = StatusQueue()
    assert queue.idle
    await queue.put(update_of(audit_record()))
    await queue.get(AUDIT_RECORD)
    assert not queue.idle, "it is taken out, and not written yet"
    queue.written()
    assert queue.idle


async def test_a_kind_that_is_full_leaves_room_for_the_other(spawn: Spawn) -> None:
    queue = StatusQueue(max_waiting=2)
    await queue.put(update_of(audit_record()))
    waiting = spawn(queue.put(update_of(audit_record())))
    await settle()
    assert not waiting.done()
    assert not queue.idle
    await queue.put(update_of(action_trace()))
    await queue.get(ACTION_TRACE)
    assert not waiting.done()
    await queue.get(AUDIT_RECORD)
    await waiting


async def test_an_update_whose_wait_for_room_is_cancelled_is_not_waited_for() -> None:
    queue = StatusQueue(max_waiting=2)
    await queue.put(update_of(audit_record()))
    waiting = asyncio.create_task(queue.put(update_of(audit_record())))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not queue.idle
    await queue.get(AUDIT_RECORD)
    queue.written()
    assert queue.idle
    async with asyncio.timeout(DEADLINE_SECONDS):
        await queue.put(update_of(audit_record()))  # the room is free again
