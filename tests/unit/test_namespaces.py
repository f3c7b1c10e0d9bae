"""The age of a namespace is asked once, remembered for some seconds, and an error is not remembered."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.namespaces import Namespaces
from datastorage.records.times import rfc3339
from harness.apiserver import FakeApiServer

CREATED = "2026-03-05T10:20:30Z"


def namespace(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "shop", "creationTimestamp": CREATED, **metadata}}


@dataclass
class Bench:
    server: FakeApiServer
    namespaces: Namespaces
    now: float = 100.0

    async def ask(self, name: str = "shop", asked_since: float = 0.0) -> str | None:
        found = await self.namespaces.created_at(name, asked_since=asked_since)
        return None if found is None else rfc3339(found)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeApiServer().serve() as server, server.transport() as transport:
        made = Bench(server, Namespaces(transport, lambda: made.now))
        yield made
        await made.namespaces.close()


async def test_all_who_ask_at_once_cost_one_request(bench: Bench) -> None:
    bench.server.answer(200, namespace())
    assert await asyncio.gather(*(bench.ask() for _ in range(20))) == [CREATED] * 20
    assert len(bench.server.requests) == 1
    assert await bench.ask() == CREATED
    assert len(bench.server.requests) == 1
    bench.now += 11
    bench.server.answer(404, {"kind": "Status", "code": 404})
    assert await bench.ask() is None
    assert len(bench.server.requests) == 2


async def test_an_error_reaches_all_who_wait_and_nobody_after_them(bench: Bench) -> None:
    bench.server.answer(403, {"kind": "Status", "code": 403})
    results = await asyncio.gather(*(bench.ask() for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {ClusterUnavailableError}
    assert len(bench.server.requests) == 1
    bench.server.answer(200, namespace())
    assert await bench.ask() == CREATED


async def test_who_gives_up_takes_the_answer_from_nobody(bench: Bench) -> None:
    bench.server.answer(200, namespace())
    impatient, patient = (asyncio.create_task(bench.ask()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await patient == CREATED
    assert len(bench.server.requests) == 1


async def test_an_answer_from_before_a_right_was_reviewed_does_not_count(bench: Bench) -> None:
    bench.server.answer(200, namespace())
    assert await bench.ask() == CREATED
    again = "2026-03-05T10:20:35Z"
    bench.server.answer(200, namespace(creationTimestamp=again))
    bench.now += 1
    assert await bench.ask(asked_since=100.0) == CREATED
    assert await bench.ask(asked_since=100.5) == again
    assert await bench.ask() == again
    assert len(bench.server.requests) == 2


async def test_a_request_under_way_from_before_a_review_does_not_count_either(bench: Bench) -> None:
    for _ in range(2):
        bench.server.answer(200, namespace())
    early = asyncio.create_task(bench.ask())
    # The task of the request notes the time when it begins, and has no answer before the server has its turn.
    for _ in range(2):
        await asyncio.sleep(0)
    bench.now += 1
    late = asyncio.create_task(bench.ask(asked_since=bench.now))
    assert [await early, await late] == [CREATED] * 2
    assert len(bench.server.requests) == 2
