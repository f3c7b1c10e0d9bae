"""Vectors on a real cluster: records are found by meaning, and failures with vectors never lose a record."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind
from e2e.load import Load, all_stored
from e2e.workbench import Workbench
from harness.archive import fetch, rows, uids
from harness.bulk import BulkClient
from harness.embeddings import OpenAIService, held
from harness.manifests import action_trace, audit_record
from harness.onnxmodel import minilm_folder
from harness.operatorprocess import OperatorProcess
from harness.polling import DEADLINE_SECONDS, until
from harness.postgres import TestDatabase, TestDatabases
from harness.redis import RedisServer

# The pauses between two looks at what is away have grown to their limit (2 s) after 3 s at the latest.
OUTAGE_SECONDS = 6.0
MESSAGES = ["checkout was killed for lack of memory", *(f"disk of node {n} is full" for n in "abcdefghij")]
_WITHOUT_VECTOR = """
    SELECT count(*) FROM unnest($1::bytea[]) AS t (text_hash)
    WHERE NOT EXISTS (SELECT FROM datastorage.embeddings_1 e WHERE e.text_hash = t.text_hash)
"""
_PENDING = "SELECT count(*) FROM datastorage.vector_outbox"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture
async def vector_server(databases: TestDatabases) -> AsyncIterator[TestDatabase]:
    """A second database, for the vectors alone."""
    made = await databases.clone()
    yield made
    await databases.drop(made)


async def fetch_value(url: str, sql: str, *arguments: Any) -> Any:
    """Return the one value of a query."""
    return (await fetch(url, sql, *arguments))[0][0]


async def phase(client: BulkClient, workbench: Workbench, kind: ResourceKind, name: str) -> Any:
    body = await client.get(kind, workbench.namespace, name)
    return (body or {}).get("status", {}).get("phase")


async def in_phase(
    client: BulkClient, workbench: Workbench, wanted: str, *, kind: ResourceKind = AUDIT_RECORD, name: str
) -> dict[str, Any]:
    """Wait until an object is in a phase; return it."""

    async def reached() -> Any:
        return await phase(client, workbench, kind, name) == wanted

    await until(reached, what=f"{name} is {wanted}")
    body = await client.get(kind, workbench.namespace, name)
    assert body is not None
    return body


async def vector_written(client: BulkClient, workbench: Workbench, *, kind: ResourceKind, name: str) -> None:
    """Wait until the status of an object says that its vector is written."""

    async def written() -> Any:
        seen = await client.get(kind, workbench.namespace, name)
        status = {} if seen is None else seen.get("status", {})
        return status.get("writes", {}).get("vector", {}).get("state") == "Written"

    await until(written, what=f"the vector of {name} is written")


async def assert_nothing_lost(
    workbench: Workbench, client: BulkClient, load: Load, vectors_url: str | None = None
) -> None:
    """Check that each accepted record has one row, its vector and the phase Stored."""

    async def caught_up() -> Any:
        return await all_stored(client, workbench, load.accepted)

    await until(caught_up, what="all Stored after the dependency is back")
    found = await rows(workbench.database_url, workbench.namespace)
    assert sorted(uids(found)) == sorted(load.accepted)
    assert await fetch_value(workbench.database_url, _PENDING) == 0
    hashes = [row["text_hash"] for row in found]
    assert await fetch_value(vectors_url or workbench.database_url, _WITHOUT_VECTOR, hashes) == 0


@asynccontextmanager
async def outage(
    client: BulkClient,
    workbench: Workbench,
    begin: Callable[[], Awaitable[Any]],
    end: Callable[[], Awaitable[Any]],
) -> AsyncIterator[Load]:
    """Keep a load up while something goes away and comes back; the block runs while it is away."""
    async with Load(client, workbench.namespace, per_second=30) as load:
        await until(lambda: _at_least(load, 30), what="some load before")
        await begin()
        before = len(load.accepted)
        try:
            yield load
            await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage is what is tested

            async def are_stored() -> bool:
                return len(await rows(workbench.database_url, workbench.namespace)) > before

            await until(are_stored, what="records are stored meanwhile")
        finally:
            await end()


async def _at_least(load: Load, count: int) -> bool:
    return len(load.accepted) >= count


async def test_equal_events_share_a_vector_and_hit_the_cache(
    workbench: Workbench, client: BulkClient, redis: RedisServer
) -> None:
    operator = workbench.start_operator(REDIS_URL=redis.url)

    async def store(name: str, message: str) -> None:
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name, message=message))
        await in_phase(client, workbench, "Stored", name=name)

    hit, missed = 'datastorage_cache_hits_total{tier="memory"}', "datastorage_cache_misses_total"
    found = 'datastorage_cache_hits_total{tier="redis"}'
    await store("same-0", MESSAGES[0])
    # More than one if the model is slow at first, as on a busy machine.
    hits, misses = operator.metric(hit), operator.metric(missed)
    assert misses >= 1
    for n in range(1, 20):
        await store(f"same-{n}", MESSAGES[0])
    assert await fetch_value(workbench.database_url, "SELECT count(*) FROM datastorage.embeddings_1") == 1
    assert (operator.metric(hit), operator.metric(missed)) == (hits + 19, misses)

    async def redis_is_used() -> Any:
        return operator.metric('datastorage_dependency_up{dependency="redis"}') == 1

    numbers = count()

    async def store_all() -> None:
        for message in MESSAGES:
            await until(redis_is_used, what="Redis is used")
            await store(f"more-{next(numbers)}", message)

    async def is_found_by_the_next_process() -> bool:
        # It has nothing in its memory.
        await asyncio.to_thread(operator.terminate)
        operator.start()
        await asyncio.to_thread(operator.wait_ready)
        await store_all()
        return operator.metric(found) > 0

    # On a busy machine Redis may miss its 50 ms, and is not used for some seconds then. So each text waits
    # until Redis is used, one of several texts is enough, and each process keeps what Redis lacks.
    await store_all()
    assert operator.metric(found) == 0
    await until(is_found_by_the_next_process, seconds=3 * DEADLINE_SECONDS, what="a vector comes from Redis")
    with redis.client() as own:
        assert len(own.keys("datastorage:vector:wordllama:l2_supercat_256:256:*")) > 0


async def test_records_are_found_by_meaning_as_soon_as_they_are_stored(
    workbench: Workbench, client: BulkClient
) -> None:
    workbench.start_operator()
    messages = {
        "oom": "Raised the memory limit of checkout from 256Mi to 512Mi after repeated OOM kills",
        "certificate": "Renewed the expired TLS certificate of the ingress",
        "disk": "Expanded the volume of the database because its disk was nearly full",
    }
    # Of a single incident, an answer would show three records at most.
    for name, message in messages.items():
        body = audit_record(name, message=message, correlationID=f"rr-{name}")
        await client.create(AUDIT_RECORD, workbench.namespace, body)
    reasoning = "The queue grows since the consumers are too slow"
    trace = action_trace("trace", correlationID="rr-trace", model={"reasoning": reasoning})
    await client.create(ACTION_TRACE, workbench.namespace, trace)
    for name in messages:
        body = await in_phase(client, workbench, "Stored", name=name)
        assert body["status"]["writes"]["vector"]["state"] == "Written"
        assert body["status"]["writes"]["vector"]["model"] == "wordllama/l2_supercat_256"
        assert {c["type"]: c["status"] for c in body["status"]["conditions"]} == {
            "Stored": "True", "Embedded": "True",
        }  # fmt: skip
    # The generations of a running trace do not wait for their vectors: the phase says nothing of them.
    await vector_written(client, workbench, kind=ACTION_TRACE, name="trace")
    assert await phase(client, workbench, ACTION_TRACE, "trace") == "Recording"
    questions = {
        "pods run out of memory": "oom", "https does not work any more": "certificate",
        "no space left on device": "disk", "backlog of messages": "trace",
    }  # fmt: skip
    for question, wanted in questions.items():
        answer = await until(partial(by_meaning, workbench, question), what="an answer by meaning")
        assert wanted in json.dumps(answer), question


async def by_meaning(workbench: Workbench, question: str) -> Any:
    """Return the answer of a search, or None if its vector has come too late for it: the machine is busy."""
    out = await asyncio.to_thread(
        workbench.datastorage, "search", question, "--namespace", workbench.namespace, "-o", "json"
    )
    answer = json.loads(out)
    return answer if answer["degraded"] is None else None


async def test_a_model_that_is_mounted_makes_its_vectors_in_the_background(
    workbench: Workbench, client: BulkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: dict[str, Any] = {"EMBEDDING_PROVIDER": "onnx", "EMBEDDING_MODEL_DIR": str(minilm_folder())}
    operator = workbench.start_operator(**model)
    messages = {
        "oom": "Raised the memory limit of checkout from 256Mi to 512Mi after repeated OOM kills",
        "certificate": "Renewed the expired TLS certificate of the ingress",
    }
    for name, message in messages.items():
        body = audit_record(name, message=message, correlationID=f"rr-{name}")
        await client.create(AUDIT_RECORD, workbench.namespace, body)
    for name in messages:
        await vector_written(client, workbench, kind=AUDIT_RECORD, name=name)
        body = await in_phase(client, workbench, "Stored", name=name)
        assert body["status"]["writes"]["vector"]["model"].startswith("onnx/all-MiniLM-L6-v2@")
    assert operator.metric('datastorage_dualwrite_failure_total{reason="queued"}') == len(messages)
    assert operator.metric("datastorage_fallback_mode_total") == 0, "no record was ever Degraded"
    for name, value in model.items():
        monkeypatch.setenv(f"DATASTORAGE_{name}", value)
    question = ("search", "https does not work any more", "--namespace", workbench.namespace)
    out = await asyncio.to_thread(
        workbench.datastorage, *question, "--mode", "vector", "--limit", "1", "-o", "json"
    )
    assert '"certificate"' in out


async def test_a_vector_of_the_background_is_pending_as_a_matter_of_course_and_degraded_if_held_up(
    workbench: Workbench, client: BulkClient, embedder: OpenAIService
) -> None:
    answers, patient = asyncio.Event(), {"EMBEDDING_BACKGROUND": "on", "EMBEDDING_TIMEOUT_SECONDS": 60}
    embedder.behaviours = [held(answers, embedder)]
    operator = workbench.start_operator(**embedder.settings(**patient))
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("slow", message="a slow one"))
    body = await in_phase(client, workbench, "Stored", name="slow")
    assert body["status"]["writes"]["vector"]["state"] == "Pending"
    conditions = {c["type"]: (c["status"], c["reason"]) for c in body["status"]["conditions"]}
    assert conditions == {"Stored": ("True", "Written"), "Embedded": ("False", "Queued")}
    answers.set()
    await vector_written(client, workbench, kind=AUDIT_RECORD, name="slow")
    embedder.is_away = True
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("late", message="a late one"))
    body = await in_phase(client, workbench, "Degraded", name="late")
    assert "503" in body["status"]["message"]
    embedder.is_away = False
    await vector_written(client, workbench, kind=AUDIT_RECORD, name="late")
    assert await phase(client, workbench, AUDIT_RECORD, "late") == "Stored"
    assert operator.metric("datastorage_fallback_mode_total") == 0


def has_answered_503(operator: OperatorProcess) -> bool:
    """Return whether /ready says so of the embedder: before, it may have been too slow on a busy machine."""
    _, said = operator.ask("/ready")
    return "503" in json.loads(said)["checks"]["embedder"]


async def test_an_embedder_that_goes_and_comes_back(
    workbench: Workbench, client: BulkClient, embedder: OpenAIService
) -> None:
    operator = workbench.start_operator(**embedder.settings())

    async def go() -> None:
        embedder.is_away = True

    async def come_back() -> None:
        embedder.is_away = False

    async with outage(client, workbench, go, come_back) as load:
        await until(lambda: asyncio.to_thread(has_answered_503, operator), what="its last answer is 503")
        name = "meanwhile"
        message = "something that nobody has seen before"
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name, message=message))
        body = await in_phase(client, workbench, "Degraded", name=name)
        conditions = {c["type"]: c for c in body["status"]["conditions"]}
        assert (conditions["Stored"]["status"], conditions["Embedded"]["status"]) == ("True", "False")
        assert conditions["Embedded"]["reason"] == "EmbedderUnavailable"
        assert "503" in conditions["Embedded"]["message"]
        assert body["status"]["writes"]["vector"]["state"] == "Pending"
        await until(lambda: asyncio.to_thread(operator.ready), what="/ready, while vectors are pending")
        load.accepted.append(body["metadata"]["uid"])
    await assert_nothing_lost(workbench, client, load)
    assert operator.metric("datastorage_fallback_mode_total") >= 1
    assert operator.metric('datastorage_dependency_up{dependency="embedder"}') == 1


async def test_the_status_of_a_running_trace_shows_its_vector_too(
    workbench: Workbench, client: BulkClient, embedder: OpenAIService
) -> None:
    embedder.is_away = True
    workbench.start_operator(**embedder.settings())
    await client.create(ACTION_TRACE, workbench.namespace, action_trace("trace"))
    body = await in_phase(client, workbench, "Recording", kind=ACTION_TRACE, name="trace")
    assert body["status"]["writes"]["vector"]["state"] == "Pending"
    embedder.is_away = False
    await vector_written(client, workbench, kind=ACTION_TRACE, name="trace")
    assert await phase(client, workbench, ACTION_TRACE, "trace") == "Recording"


async def test_a_text_that_the_embedder_refuses_ends_in_a_visible_state(
    workbench: Workbench, client: BulkClient, embedder: OpenAIService
) -> None:
    embedder.poison = "unspeakable"
    workbench.start_operator(**embedder.settings())
    for name, message in {"bad": "an unspeakable thing", "good": "a fine thing"}.items():
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name, message=message))
    good = await in_phase(client, workbench, "Stored", name="good")
    bad = await in_phase(client, workbench, "Stored", name="bad")
    assert good["status"]["writes"]["vector"]["state"] == "Written"
    assert bad["status"]["writes"]["vector"]["state"] == "Failed"
    shown = await asyncio.to_thread(workbench.datastorage, "outbox", "show", "-o", "json")
    assert "400" in shown


async def test_a_redis_that_goes_and_comes_back(
    workbench: Workbench, client: BulkClient, redis: RedisServer
) -> None:
    operator = workbench.start_operator(REDIS_URL=redis.url)

    async def go() -> None:
        redis.stop()

    async def come_back() -> None:
        await asyncio.to_thread(redis.start)

    async with outage(client, workbench, go, come_back) as load:
        pass
    await assert_nothing_lost(workbench, client, load)
    # The model is in the operator itself, and may be too slow for a moment on a busy machine.
    is_slow = "gave no answer within 2 s" in operator.log()
    assert operator.metric("datastorage_fallback_mode_total") == 0 or is_slow, "no vector was ever pending"
    # So may Redis, before and after the outage.
    assert operator.log().count("Redis") < len(load.accepted) / 5, "no flood of logs"


async def test_a_vector_server_that_goes_and_comes_back(
    workbench: Workbench, client: BulkClient, databases: TestDatabases, vector_server: TestDatabase
) -> None:
    workbench.start_operator(VECTOR_DATABASE_URL=vector_server.service_url)
    async with outage(
        client, workbench,
        lambda: databases.close_connections(vector_server, allow_new=False),
        lambda: databases.close_connections(vector_server, allow_new=True),
    ) as load:  # fmt: skip
        pass
    await assert_nothing_lost(workbench, client, load, vector_server.service_url)


async def test_embedder_and_redis_and_vector_server_at_once(
    workbench: Workbench,
    client: BulkClient,
    databases: TestDatabases,
    vector_server: TestDatabase,
    embedder: OpenAIService,
    redis: RedisServer,
) -> None:
    workbench.start_operator(
        **embedder.settings(REDIS_URL=redis.url, VECTOR_DATABASE_URL=vector_server.service_url)
    )

    async def go() -> None:
        embedder.is_away = True
        redis.stop()
        await databases.close_connections(vector_server, allow_new=False)

    async def come_back() -> None:
        embedder.is_away = False
        await asyncio.to_thread(redis.start)
        await databases.close_connections(vector_server, allow_new=True)

    async with outage(client, workbench, go, come_back) as load:
        pass
    await assert_nothing_lost(workbench, client, load, vector_server.service_url)


async def test_killed_while_vectors_are_pending_and_nothing_is_forgotten(
    workbench: Workbench, client: BulkClient, embedder: OpenAIService
) -> None:
    """The next start writes the vectors that the last one has left pending, and promotes the records."""
    embedder.is_away = True
    operator = workbench.start_operator(**embedder.settings())
    names = [f"pending-{n}" for n in range(40)]
    created = [
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(name, message=f"{name} happened"))
        for name in names
    ]
    await in_phase(client, workbench, "Degraded", name=names[-1])
    operator.kill()
    embedder.is_away = False
    operator.start()
    accepted = [body["metadata"]["uid"] for body in created]

    async def caught_up() -> Any:
        return await all_stored(client, workbench, accepted)

    await until(caught_up, what="all Stored by the next process")
    assert await fetch_value(workbench.database_url, _PENDING) == 0


@pytest.mark.parametrize("provider", ["wordllama", "none"])
async def test_a_degraded_start(
    workbench: Workbench,
    client: BulkClient,
    databases: TestDatabases,
    vector_server: TestDatabase,
    provider: str,
) -> None:
    """An operator starts and stores while the vectors' server is away, or where none is wanted."""
    await databases.close_connections(vector_server, allow_new=False)
    workbench.start_operator(
        VECTOR_DATABASE_URL=vector_server.service_url,
        EMBEDDING_PROVIDER=provider,
        REDIS_URL="redis://127.0.0.1:1",
    )
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("one"))
    body = await in_phase(client, workbench, "Degraded" if provider == "wordllama" else "Stored", name="one")
    wanted = "Pending" if provider == "wordllama" else "Skipped"
    assert body["status"]["writes"]["vector"]["state"] == wanted
    await databases.close_connections(vector_server, allow_new=True)
    await in_phase(client, workbench, "Stored", name="one")
