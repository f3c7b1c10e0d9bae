"""The start prepares vectors, and continues if that fails."""

from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from datastorage.assembly.store import VectorStore, open_store
from datastorage.errors import NewerSchemaError, TransientError
from datastorage.metrics import REGISTRY
from datastorage.runtime.run import prepare_vectors
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings
from datastorage.storage.schema import VECTORS
from harness.polling import eventually
from harness.ports import free_port
from harness.postgres import TestDatabase
from harness.redis import RedisServer

_OTHER_SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _settings(database_url: str, redis_url: str | None = None) -> Settings:
    return Settings(
        database=DatabaseSettings(url=SecretStr(database_url)),
        redis_url=None if redis_url is None else SecretStr(redis_url),
    )


def _calls_of_the_model() -> float:
    return REGISTRY.get_sample_value("datastorage_embedding_generation_duration_seconds_count") or 0.0


async def _prepare(settings: Settings) -> VectorStore:
    async with open_store(settings, writable=True) as store:
        assert store.vectors is not None
        await prepare_vectors(store.vectors)
        return store.vectors


async def test_it_asks_the_schema_loads_the_model_and_connects_to_redis(
    cloned: TestDatabase, owner: Any
) -> None:
    calls = _calls_of_the_model()
    with RedisServer() as server:
        async with (
            Redis.from_url(server.url) as client,
            open_store(_settings(cloned.service_url, server.url), writable=True) as store,
        ):
            assert store.vectors is not None
            assert len(await client.client_list()) == 1
            await prepare_vectors(store.vectors)
            assert len(await client.client_list()) > 1
            assert await owner.fetchval(_OTHER_SESSIONS) > 0
            assert _calls_of_the_model() > calls


async def test_an_outage_ends_although_no_record_comes(cloned: TestDatabase) -> None:
    async def away() -> None:
        raise TransientError("away")

    async with open_store(_settings(cloned.service_url), writable=True) as store:
        assert store.vectors is not None
        await prepare_vectors(store.vectors)
        breakers = store.vectors.embedder_breaker, store.vectors.breaker
        for breaker in breakers:
            with pytest.raises(TransientError):
                await breaker.attempt(away)
        await eventually(lambda: all(breaker.reason is None for breaker in breakers))


async def test_a_newer_schema_is_refused(cloned: TestDatabase, owner: Any) -> None:
    await owner.execute(f"UPDATE datastorage.{VECTORS.version_table} SET version_num = '9999_later'")
    with pytest.raises(NewerSchemaError):
        await _prepare(_settings(cloned.service_url))


async def test_servers_that_are_away_are_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    calls = _calls_of_the_model()
    nowhere = f"127.0.0.1:{free_port()}"
    await _prepare(_settings(f"postgresql://nobody@{nowhere}/none", f"redis://{nowhere}"))
    assert [record.levelname for record in caplog.records if "without vectors" in record.message] == [
        "WARNING"
    ]
    assert _calls_of_the_model() > calls, "the model is loaded all the same"
