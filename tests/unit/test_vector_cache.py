"""The cache of vectors on a real Redis: whatever Redis does, nothing is slow and no vector is wrong."""

import asyncio
import logging
import math
import os
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from redis import Redis

from datastorage import metrics
from datastorage.embedding import VectorCache
from datastorage.embedding.rediscache import Limits, RedisStore
from datastorage.errors import ConfigurationError
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.secrets import Origin
from harness.polling import DEADLINE_SECONDS, eventually
from harness.proxy import FreezableProxy
from harness.redis import RedisServer
from harness.servingcertificates import Authority
from tests.support.pace import NEVER

MODEL = EmbeddingModel("wordllama", "l2_supercat_256", 256)
TTL = 300
PATIENT = Limits(use_seconds=5.0, connect_seconds=5.0)
"""For tests that are about something other than time: the machine may be busy."""
PROMPT = replace(PATIENT, pace=replace(PATIENT.pace, first=0.01, max=0.05))
"""As patient, and probes within moments whether Redis is back."""
ALONE = replace(PATIENT, pace=NEVER)
"""As patient, and does not look again while a test lasts."""
BRIEF_SECONDS = 1.0
"""For a use that a test lets run out of time: far more than one takes on a busy machine."""

Make = Callable[..., VectorCache]


@pytest.fixture(scope="module")
def module_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(module_server: RedisServer) -> RedisServer:
    """A running server with nothing in it, for tests that leave it running."""
    with module_server.client() as client:
        client.flushall()
    return module_server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server for a test that stops it or sets it up differently."""
    with RedisServer() as server:
        yield server


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    caches: list[VectorCache] = []

    def cache(
        url: str | Origin | None, *, model: EmbeddingModel = MODEL, limits: Limits = PROMPT
    ) -> VectorCache:
        caches.append(VectorCache(model, RedisStore(url, TTL, limits=limits) if url else None))
        return caches[-1]

    yield cache
    for made in caches:
        await made.close()


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vector_of(number: int) -> Vector:
    return np.full(MODEL.dimensions, number + 1, dtype=np.float32)


def vectors_of(*numbers: int) -> dict[bytes, Vector]:
    return {key_of(number): vector_of(number) for number in numbers}


def name_of(number: int) -> str:
    return f"datastorage:vector:wordllama:l2_supercat_256:256:{key_of(number).hex()}"


def assert_found(found: dict[bytes, Vector], *numbers: int) -> None:
    assert found.keys() == vectors_of(*numbers).keys()
    for number in numbers:
        np.testing.assert_array_equal(found[key_of(number)], vector_of(number))


def value(metric: Any, *labels: str) -> float:
    return float((metric.labels(*labels) if labels else metric)._value.get())


def redis_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("datastorage")]


def cache_serves(cache: VectorCache) -> Callable[[], Awaitable[bool]]:
    async def serves() -> bool:
        return await cache.check() is None

    return serves


async def get(cache: VectorCache, *numbers: int) -> dict[bytes, Vector]:
    return await cache.get([key_of(number) for number in numbers])


async def test_a_cached_vector_is_found_by_every_replica(server: RedisServer, make: Make) -> None:
    one, other = make(server.url), make(server.url)
    await one.set(vectors_of(1, 2))
    assert_found(await get(one, 1, 2, 3), 1, 2)
    assert_found(await get(other, 3, 2, 1), 1, 2)


async def test_values_are_compact_and_live_for_a_while(server: RedisServer, make: Make) -> None:
    await make(server.url).set(vectors_of(1))
    with server.client() as client:
        assert client.keys() == [name_of(1).encode()]
        assert client.get(name_of(1)) == vector_of(1).astype("<f4").tobytes()
        assert 0 < int(client.ttl(name_of(1))) <= TTL


@pytest.mark.parametrize(
    "model",
    [
        EmbeddingModel("openai", "l2_supercat_256", 256),
        EmbeddingModel("wordllama", "another", 256),
        EmbeddingModel("wordllama", "l2_supercat_256", 128),
    ],
)
async def test_vectors_of_another_model_are_not_found(
    server: RedisServer, make: Make, model: EmbeddingModel
) -> None:
    await make(server.url).set(vectors_of(1))
    assert await get(make(server.url, model=model), 1) == {}


async def test_a_batch_costs_one_command_each_way(server: RedisServer, make: Make) -> None:
    cache = make(server.url)
    await cache.set(vectors_of(*range(500)))
    before = _commands(server)
    assert_found(await get(make(server.url), *range(500)), *range(500))
    assert _commands(server).get("cmdstat_mget", 0) - before.get("cmdstat_mget", 0) == 1
    await get(cache, *range(500))
    assert _commands(server)["cmdstat_mget"] - before.get("cmdstat_mget", 0) == 1, "memory comes first"


def _commands(server: RedisServer) -> dict[str, int]:
    with server.client() as client:
        info: Any = client.info("commandstats")
    return {command: int(numbers["calls"]) for command, numbers in info.items()}


async def test_hits_and_misses_are_counted(server: RedisServer, make: Make) -> None:
    await make(server.url).set(vectors_of(1, 2))
    cache = make(server.url)
    await cache.set(vectors_of(3))
    before = (
        value(metrics.CACHE_HITS, "memory"),
        value(metrics.CACHE_HITS, "redis"),
        value(metrics.CACHE_MISSES),
    )
    await get(cache, 1, 2, 3, 4, 5, 6)
    await get(cache, 1, 2, 3, 4)
    after = (
        value(metrics.CACHE_HITS, "memory"),
        value(metrics.CACHE_HITS, "redis"),
        value(metrics.CACHE_MISSES),
    )
    assert np.subtract(after, before).tolist() == [1 + 3, 2, 3 + 1]


async def test_without_redis_there_is_the_memory(make: Make) -> None:
    cache = make(None)
    misses = value(metrics.CACHE_MISSES)
    await cache.set(vectors_of(1))
    assert_found(await get(cache, 1, 2), 1)
    assert value(metrics.CACHE_MISSES) == misses + 1
    assert await cache.check() is None


async def test_the_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    bound = 2**21
    cache = VectorCache(MODEL, memory_bytes=bound)
    tracemalloc.start()
    try:
        for number in range(5000):
            await cache.set(vectors_of(number))
            await get(cache, 0)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.7 * bound < size < bound
    assert_found(await get(cache, 0, 1, 4999), 0, 4999)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"garbage",
        vector_of(1).tobytes()[:-1],
        vector_of(1).tobytes() + b"\0",
        vector_of(1).astype(np.float64).tobytes(),
        np.full(256, np.nan, dtype="<f4").tobytes(),
        np.array([np.inf] + [1] * 255, dtype="<f4").tobytes(),
        np.zeros(256, dtype="<f4").tobytes(),
        np.full(256, 1e-8, dtype="<f4").tobytes(),
        np.full(256, 1e25, dtype="<f4").tobytes(),
        os.urandom(100_000),
    ],
)
async def test_garbage_is_ignored_counted_and_replaced(
    server: RedisServer, make: Make, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await make(server.url).set(vectors_of(2))
    with server.client() as client:
        client.set(name_of(1), garbage)
    counted = value(metrics.CACHE_ERRORS, "garbage")
    cache = make(server.url)
    assert_found(await get(cache, 1, 2), 2)
    assert value(metrics.CACHE_ERRORS, "garbage") == counted + 1
    assert await cache.check() is None
    await cache.set(vectors_of(1))
    assert_found(await get(make(server.url), 1), 1)
    assert redis_log(caplog) == []


async def test_a_value_of_another_type_is_ignored_and_replaced(server: RedisServer, make: Make) -> None:
    with server.client() as client:
        client.rpush(name_of(1), "a")
    cache = make(server.url)
    assert await get(cache, 1) == {}
    await cache.set(vectors_of(1))
    assert_found(await get(make(server.url), 1), 1)


async def test_an_absent_redis_is_left_alone_and_logged_once(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.stop()
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    skipped = value(metrics.CACHE_ERRORS, "unavailable")
    cache = make(own_server.url, limits=ALONE)
    for _ in range(100):
        assert await get(cache, 1) == {}
    await cache.set(vectors_of(1))
    assert_found(await get(cache, 1), 1)
    assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed + 1, "tried once"
    assert value(metrics.CACHE_ERRORS, "unavailable") == skipped + 101
    assert value(metrics.DEPENDENCY_UP, "redis") == 0
    assert redis_log(caplog) == ["redis does not serve"]
    assert await cache.check() == "no connection (Connection refused)"


def test_the_pauses_are_bounded() -> None:
    """The breaker's tests show that they grow from the first to the longest."""
    pace = Limits().pace
    assert (pace.first, pace.max, pace.remind, pace.quiet) == (1.0, 5.0, math.inf, 30.0)


async def test_a_redis_that_comes_back_is_used_again_and_logged_once(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(own_server.url)
    await cache.set(vectors_of(1))
    own_server.stop()
    for _ in range(5):
        assert await get(cache, 2) == {}
    own_server.start()
    await eventually(cache_serves(cache))
    await cache.set(vectors_of(2))
    assert_found(await get(make(own_server.url), 2), 2)
    assert await cache.check() is None
    assert value(metrics.DEPENDENCY_UP, "redis") == 1
    assert redis_log(caplog) == ["redis does not serve", "redis serves again"]
    assert caplog.records[-1].__dict__["skipped_uses"] == 5


async def test_an_outage_ends_although_no_vector_is_asked_for(own_server: RedisServer, make: Make) -> None:
    cache = make(own_server.url)
    own_server.stop()
    assert await get(cache, 1) == {}
    assert value(metrics.DEPENDENCY_UP, "redis") == 0
    own_server.start()
    await eventually(lambda: value(metrics.DEPENDENCY_UP, "redis") == 1)


async def test_many_short_outages_make_no_log_flood(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(PROMPT, pace=replace(PROMPT.pace, quiet=10_000.0))
    cache = make(own_server.url, limits=limits)
    for _ in range(3):
        own_server.stop()
        await get(cache, 1)
        own_server.start()
        await eventually(cache_serves(cache))
    assert redis_log(caplog) == ["redis does not serve", "redis serves again"]
    own_server.stop()
    await get(cache, 1)
    assert await cache.check() is not None


async def test_a_redis_that_stands_still_costs_one_time_out(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(own_server.url, limits=replace(ALONE, use_seconds=BRIEF_SECONDS))
    await cache.connect()
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    own_server.pause()
    try:
        for number in range(50):
            assert await get(cache, number) == {}
        assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed + 1
        assert await cache.check() == "no answer within 1000 ms"
        assert redis_log(caplog) == ["redis does not serve"]
    finally:
        own_server.resume()


async def test_the_first_connection_is_given_more_time_than_a_use(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(PATIENT, use_seconds=BRIEF_SECONDS, connect_seconds=60.0)
    await make(own_server.url, limits=limits).connect()
    cache = make(own_server.url, limits=limits)
    own_server.pause()
    connecting = asyncio.create_task(cache.connect())
    done, _ = await asyncio.wait({connecting}, timeout=1.5 * BRIEF_SECONDS)
    assert not done, "a use would have been given up"
    own_server.resume()
    await connecting
    assert redis_log(caplog) == []
    assert value(metrics.DEPENDENCY_UP, "redis") == 1
    with own_server.client() as client:
        # Both caches hold on to their connection. Redis notices a moment later that the others have ended.
        await eventually(lambda: len(client.client_list()) == 3)


async def test_many_uses_do_not_try_whether_redis_is_back(own_server: RedisServer, make: Make) -> None:
    own_server.stop()
    cache = make(own_server.url, limits=ALONE)
    await get(cache, 1)
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    await asyncio.gather(*(get(cache, number) for number in range(20)))
    assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed


async def test_a_late_answer_is_discarded(own_server: RedisServer, make: Make) -> None:
    """A late answer to an abandoned request must not be taken for the answer to the next one."""
    await make(own_server.url).set(vectors_of(*range(20)))
    cache = make(own_server.url, limits=replace(PROMPT, use_seconds=BRIEF_SECONDS))
    assert_found(await get(cache, 0), 0)  # connected
    own_server.pause()
    try:
        for number in range(1, 5):
            assert await get(cache, number) == {}
    finally:
        own_server.resume()
    await eventually(cache_serves(cache))
    assert_found(await get(cache, 10), 10)
    await asyncio.gather(*(get(cache, number) for number in range(10)))
    assert_found(await get(cache, *range(20)), *range(20))


async def test_a_question_that_is_cancelled_at_any_moment_leaves_no_answer_behind(
    server: RedisServer, make: Make
) -> None:
    await make(server.url).set(vectors_of(*range(400)))
    cache = make(server.url)
    for steps in range(60):
        asked = asyncio.create_task(get(cache, 2 * steps))
        for _ in range(steps):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert_found(await get(cache, 2 * steps + 1), 2 * steps + 1)


async def test_many_uses_at_once_get_their_own_answers(server: RedisServer, make: Make) -> None:
    await make(server.url).set(vectors_of(*range(200)))
    cache = make(server.url)
    found = await asyncio.gather(*(get(cache, number, number + 1) for number in range(0, 60, 2)))
    for number, vectors in zip(range(0, 60, 2), found, strict=True):
        assert_found(vectors, number, number + 1)


def _refuse_writes(client: Redis) -> None:
    client.config_set("maxmemory", "1")


def _become_replica(client: Redis) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client.replicaof("127.0.0.1", nobody.getsockname()[1])


@pytest.mark.parametrize("trouble", [_refuse_writes, _become_replica])
async def test_a_redis_that_refuses_to_write_is_left_alone(
    own_server: RedisServer, make: Make, trouble: Callable[[Redis], None], caplog: pytest.LogCaptureFixture
) -> None:
    await make(own_server.url).set(vectors_of(*range(10)))
    with own_server.client() as client:
        trouble(client)
    cache = make(own_server.url)
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    for number in range(10):
        await cache.set(vectors_of(100 + number))
        assert await get(cache, number) == {}
    assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed + 1
    assert value(metrics.DEPENDENCY_UP, "redis") == 0
    assert redis_log(caplog) == ["redis does not serve"]
    wrong = await cache.check()
    assert wrong is not None
    assert wrong.startswith("it refuses to serve")


def _writes_need_a_replica(client: Redis) -> None:
    client.config_set("min-replicas-to-write", "1")


def _writes_need_none(client: Redis) -> None:
    client.config_set("min-replicas-to-write", "0")


def _has_room_again(client: Redis) -> None:
    client.config_set("maxmemory", "0")


def _is_no_replica_any_more(client: Redis) -> None:
    client.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("trouble", "end"),
    [
        (_refuse_writes, _has_room_again),
        (_writes_need_a_replica, _writes_need_none),
        (_become_replica, _is_no_replica_any_more),
    ],
)
async def test_a_redis_that_writes_again_is_written_to_again(
    own_server: RedisServer,
    make: Make,
    trouble: Callable[[Redis], None],
    end: Callable[[Redis], None],
) -> None:
    await make(own_server.url).set(vectors_of(*range(20)))
    cache = make(own_server.url)
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    with own_server.client() as client:
        trouble(client)
        assert_found(await get(cache, 1), 1)
        for number in range(10):
            await cache.set(vectors_of(100 + number))
            assert await cache.check() is not None
        assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed + 1, "only one write was tried"
        end(client)
        await eventually(cache_serves(cache))
        await cache.set(vectors_of(200))
        assert await cache.check() is None
        assert value(metrics.DEPENDENCY_UP, "redis") == 1
        assert client.get(name_of(200)) is not None


async def test_a_redis_that_goes_away_after_it_refused_to_write_is_left_alone(
    own_server: RedisServer, make: Make
) -> None:
    cache = make(own_server.url)
    with own_server.client() as client:
        _refuse_writes(client)
    await cache.set(vectors_of(1))
    own_server.stop()
    failed = value(metrics.DEPENDENCY_ERRORS, "redis")
    for number in range(10):
        await get(cache, 10 + number)
        await cache.set(vectors_of(20 + number))
    assert value(metrics.DEPENDENCY_ERRORS, "redis") == failed
    own_server.start()
    await eventually(cache_serves(cache))


async def test_a_password_is_used(make: Make) -> None:
    with RedisServer(with_password=True) as server:
        await make(server.url).set(vectors_of(1))
        assert_found(await get(make(server.url), 1), 1)
        wrong = make(server.url.replace(str(server.password), "wrong-secret"))
        assert await get(wrong, 1) == {}
        assert await wrong.check() == "it refuses the password"
        without = make(f"redis://127.0.0.1:{server.port}/0")
        assert await get(without, 1) == {}
        assert await without.check() is not None


async def test_a_new_password_is_taken_from_the_file(
    own_server: RedisServer, make: Make, tmp_path: Path
) -> None:
    name = "DATASTORAGE_REDIS_URL"

    def url(password: str) -> str:
        return f"redis://:{password}@127.0.0.1:{own_server.port}/0"

    with own_server.client() as client:
        client.config_set("requirepass", "one")
        (tmp_path / name).write_text(url("one"))
        cache = make(Origin(name, url("one"), tmp_path, look_seconds=0.0))
        await cache.set(vectors_of(1))
        client.execute_command("AUTH", "one")
        client.config_set("requirepass", "two")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await get(cache, 2)  # finds the connection cut

        async def is_refused() -> bool:
            return await cache.check() == "it refuses the password"

        await eventually(is_refused)
        (tmp_path / name).write_text("redis://:three@host/zero")
        assert await cache.check() == "it refuses the password"
        (tmp_path / name).write_text(url("two"))
        await eventually(cache_serves(cache))
        await cache.set(vectors_of(3))
        client.execute_command("AUTH", "two")
        assert client.get(name_of(3)) is not None


async def test_a_new_password_makes_new_connections(
    own_server: RedisServer, make: Make, tmp_path: Path
) -> None:
    """Redis may cut connections with the old password at any moment."""
    name = "DATASTORAGE_REDIS_URL"
    (tmp_path / name).write_text(own_server.url)
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "new", "on", ">two", "~*", "+@all")
        cache = make(Origin(name, own_server.url, tmp_path, look_seconds=0.0))
        await cache.set(vectors_of(1))
        (tmp_path / name).write_text(f"redis://new:two@127.0.0.1:{own_server.port}/0")
        await cache.set(vectors_of(2))
        assert client.get(name_of(2)) is not None
        assert "new" in {each["user"] for each in client.client_list()}


async def test_a_replica_is_left_when_the_name_leads_to_the_primary(server: RedisServer, make: Make) -> None:
    with RedisServer() as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", server.port)
        async with FreezableProxy(replica.url.replace("//", "//:@")) as proxy:
            cache = make(proxy.url)

            async def is_refused() -> bool:  # while it copies the primary, it answers no requests
                return await cache.check() == "it refuses to serve (ReadOnlyError)"

            await eventually(is_refused)
            await cache.set(vectors_of(1))
            assert await cache.check() is not None
            proxy.redirect_to(server.url)
            await eventually(cache_serves(cache))
            await cache.set(vectors_of(2))
        with server.client() as client:
            assert client.get(name_of(2)) is not None


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-5\r\n", b"*1\r\n:1\r\n" * 100, b"\x15\x03\x01\x00\x02", b""],
)
async def test_a_server_other_than_redis_is_never_fatal(make: Make, answer: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for scheme in ("redis", "rediss"):
        cache = make(
            f"{scheme}://:secret@127.0.0.1:{port}/0", limits=replace(PROMPT, use_seconds=BRIEF_SECONDS)
        )
        assert await get(cache, 1, 2) == {}
        await cache.set(vectors_of(1))
        assert_found(await get(cache, 1, 2), 1)
        wrong = await cache.check()
        assert wrong is not None
        assert "secret" not in wrong
    server.close()


async def test_a_name_that_does_not_exist_is_never_fatal(make: Make) -> None:
    cache = make("redis://:secret@redis.invalid:6379/0")
    assert await get(cache, 1) == {}
    wrong = await cache.check()
    assert wrong is not None
    assert wrong.startswith("no connection (")


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@host:6379",
        "host:6379",
        "redis://:secret@host:port/0",
        "redis://:secret@host:99999/0",
        "redis://:secret@host/zero",
        "redis://:secret@host/0?socket_timeout=5",
        "redis://:secret@host/0?decode_responses=true",
        "redis://:secret@host/0?db=zero",
        "rediss://:secret@host/0?ssl_cert_reqs=perhaps",
        "rediss://:secret@host/0?ssl_nonsense=1",
        "redis://:secret@[::1",
        "redis://:12/secret@host/0",
        "redis://:12?secret@host/0",
        "redis://:12#secret@host/0",
    ],
)
async def test_a_malformed_url_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATASTORAGE_REDIS_URL") as caught:
        RedisStore(url, TTL)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "ssl_ca_certs=/no/such/ca.crt",
            "ssl_ca_certs names /no/such/ca.crt, which can't be read (No such file",
        ),
        ("ssl_certfile=/no/such.crt", "ssl_certfile names /no/such.crt"),
        ("ssl_certfile={file}&ssl_keyfile=/no/such.key", "ssl_keyfile names /no/such.key"),
        ("ssl_ca_certs={file}", "its certificates or TLS options can't be used"),
        ("ssl_ciphers=nonsense", "its certificates or TLS options can't be used"),
    ],
)
async def test_unusable_files_end_the_start(tmp_path: Path, query: str, said: str) -> None:
    """Otherwise Redis would seem to be away forever."""
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(f"rediss://:secret@host/0?{query.format(file=tmp_path / 'no.pem')}", TTL)
    assert f"DATASTORAGE_REDIS_URL: {said}" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "ssl_ca_certs names {file}, which can't be read (No such file"),
        ("no certificate", "its certificates or TLS options can't be used"),
        (".", "ssl_ca_certs names {file}, which can't be read (Is a directory"),
    ],
)
async def test_a_file_that_turns_bad_is_an_outage_and_is_named(
    server: RedisServer, make: Make, tmp_path: Path, content: str | None,
    said: str, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    authority, file = Authority(), tmp_path / "ca.crt"
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(*authority.server("127.0.0.1").write(tmp_path, "server"))
    file.write_bytes(authority.pem)
    async with FreezableProxy(server.url, shown) as proxy:
        url = f"{proxy.url.replace('redis:', 'rediss:', 1)}?ssl_ca_certs={file}"
        cache = make(Origin("DATASTORAGE_REDIS_URL", url, look_seconds=0.0))
        await cache.set(vectors_of(1))
        assert await cache.check() is None
        file.unlink()
        if content == ".":
            file.mkdir()
        elif content is not None:
            file.write_text(content)
        with server.client() as client:
            for _ in range(3):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert await get(cache, 2) == {}
                await cache.set(vectors_of(3))
                assert_found(await get(cache, 1, 3), 1, 3)
        reasons = [
            vars(record)["error"] for record in caplog.records if "does not serve" in record.getMessage()
        ]
        assert len(reasons) == 1
        assert said.format(file=file) in reasons[0]
        if file.is_dir():
            file.rmdir()
        file.write_bytes(authority.pem)
        await eventually(cache_serves(cache))
        await cache.set(vectors_of(4))
        with server.client() as client:
            assert client.get(name_of(4)) is not None


async def test_the_password_is_in_no_log(
    own_server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own_server.stop()
    cache = make(f"redis://:secret@127.0.0.1:{own_server.port}/0")
    await get(cache, 1)
    assert "secret" not in caplog.text
    assert all("secret" not in str(record.__dict__) for record in caplog.records)


async def test_closing_while_redis_stands_still_ends(own_server: RedisServer, make: Make) -> None:
    cache = make(own_server.url)
    await get(cache, 1)
    own_server.pause()
    try:
        await asyncio.wait_for(cache.close(), DEADLINE_SECONDS)
    finally:
        own_server.resume()
