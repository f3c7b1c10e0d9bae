"""The URLs of everything that the operator talks to may have IPv6 addresses."""

import asyncio

import pytest
from pydantic import SecretStr

from datastorage.embedding.openai import OpenAIProvider
from datastorage.embedding.rediscache import RedisStore
from datastorage.secrets import Origin
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings, EmbeddingSettings
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate_all
from harness.embeddings import OpenAIService
from harness.postgres import TestDatabase
from harness.redis import RedisServer
from tests.support.ipv6 import needs_ipv6

pytestmark = needs_ipv6


def over_ipv6(url: str) -> str:
    if "@127.0.0.1:" not in url:
        pytest.skip("another server than our own")
    return url.replace("@127.0.0.1:", "@[::1]:")


async def test_postgres(cloned: TestDatabase) -> None:
    url = over_ipv6(cloned.service_url)
    database = Database(url, pool_size=1)
    await database.check_schema_version()
    await database.close()


async def test_migrations(cloned: TestDatabase) -> None:
    url = over_ipv6(cloned.owner_url)
    database, embedding = DatabaseSettings(url=SecretStr(url)), EmbeddingSettings(provider="none")
    settings = Settings(database=database, embedding=embedding)
    [(_, before, after)] = await asyncio.to_thread(lambda: list(migrate_all(settings)))
    assert before == after


async def test_redis() -> None:
    with RedisServer(with_password=True) as server:
        store = RedisStore(server.url.replace("127.0.0.1", "[::1]"), 60)
        await store.set({"key": b"value"})
        assert await store.get(["key"]) == [b"value"]
        await store.close()


async def test_the_embedding_service() -> None:
    service = OpenAIService(4, host="::1")
    await service.start()
    try:
        assert "[::1]" in service.url
        settings = EmbeddingSettings(provider="openai", model="m", dimensions=4)
        url, key = (
            Origin("DATASTORAGE_EMBEDDING_URL", service.url),
            Origin("DATASTORAGE_EMBEDDING_API_KEY", ""),
        )
        provider = OpenAIProvider(settings, url=url, key=key)
        assert len(await provider.embed(["text"])) == 1
        await provider.close()
    finally:
        await service.stop()
