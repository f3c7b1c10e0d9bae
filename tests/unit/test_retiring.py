"""Clients that were replaced: each is closed once, later or at the end."""

import asyncio

from datastorage.embedding.retiring import RetiredClients
from harness.polling import eventually

NEVER = 3600.0


class Client:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_a_retired_client_is_closed_later() -> None:
    retired, soon, later = RetiredClients(), Client(), Client()
    retired.add(later.close, after_seconds=NEVER)
    retired.add(soon.close, after_seconds=0.0)
    await eventually(lambda: soon.closed == 1)
    assert later.closed == 0
    await retired.close()
    assert (soon.closed, later.closed) == (1, 1)


async def test_a_client_that_has_just_been_retired_is_closed_at_the_end() -> None:
    retired, client = RetiredClients(), Client()
    retired.add(client.close, after_seconds=NEVER)
    await retired.close()
    assert client.closed == 1


async def test_a_client_that_fails_to_close_does_not_keep_others_open() -> None:
    async def fail() -> None:
        raise OSError

    retired, client = RetiredClients(), Client()
    retired.add(fail, after_seconds=NEVER)
    retired.add(client.close, after_seconds=NEVER)
    await retired.close()
    assert client.closed == 1


async def test_a_client_is_closed_if_its_task_is_cancelled() -> None:
    retired, client = RetiredClients(), Client()
    before = asyncio.all_tasks()
    retired.add(client.close, after_seconds=NEVER)
    await asyncio.sleep(0)
    [task] = asyncio.all_tasks() - before
    task.cancel()
    await asyncio.wait([task])
    assert client.closed == 1
