"""Fixtures: one PostgreSQL server per session, one cloned database per test."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from harness.postgres import PostgresServer, TestDatabase, TestDatabases, connect
from harness.postgresversions import NEWEST, OLDEST

_URL_VARIABLE = "DATASTORAGE_TEST_DATABASE_URL"

# Examples are few so that the whole suite is quick, and the same in every run, so that a run fails for what
# was changed and not by chance. HYPOTHESIS_PROFILE=thorough looks at many others.
settings.register_profile(
    "quick",
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run marked tests on the oldest PostgreSQL too; all others run on the newest alone."""
    marked = metafunc.definition.get_closest_marker("oldest_postgres")
    if marked and "databases" in metafunc.fixturenames and not os.environ.get(_URL_VARIABLE):
        metafunc.parametrize(
            "databases", [NEWEST, OLDEST], ids="postgres{}".format, indirect=True, scope="session"
        )


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> TestDatabases:
    """Databases on our own server, or on the one of DATASTORAGE_TEST_DATABASE_URL (its owner role)."""
    # Both stay until the session ends, and the older one comes only when a test asks for it.
    version = getattr(request, "param", NEWEST)
    found: TestDatabases = request.getfixturevalue(f"databases_on_{version}")
    return found


@pytest.fixture(scope="session")
def databases_on_18() -> Iterator[TestDatabases]:
    """Databases on the newest PostgreSQL, or on the server that is named."""
    url = os.environ.get(_URL_VARIABLE)
    if url:
        yield from _databases_on(url)
    else:
        yield from _databases_on_own(NEWEST)


@pytest.fixture(scope="session")
def databases_on_16() -> Iterator[TestDatabases]:
    """Databases on the oldest PostgreSQL that is supported."""
    yield from _databases_on_own(OLDEST)


def _databases_on_own(version: int) -> Iterator[TestDatabases]:
    with PostgresServer(version) as server:
        yield from _databases_on(server.owner_url)


def _databases_on(url: str) -> Iterator[TestDatabases]:
    made = TestDatabases(url)
    made.prepare()
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def common(databases: TestDatabases) -> TestDatabase:
    """A migrated database shared by tests that only add rows of their own, or change nothing."""
    return asyncio.run(databases.clone())


@pytest_asyncio.fixture
async def cloned(databases: TestDatabases) -> AsyncIterator[TestDatabase]:
    """A migrated database for one test."""
    database = await databases.clone()
    yield database
    await databases.drop(database)


@pytest_asyncio.fixture
async def unmigrated(databases: TestDatabases) -> AsyncIterator[TestDatabase]:
    """A database without the schema, for one test."""
    database = await databases.empty()
    yield database
    await databases.drop(database)


@pytest_asyncio.fixture
async def database(cloned: TestDatabase) -> AsyncIterator[Database]:
    """The store's pool under the service role."""
    made = Database(cloned.service_url, pool_size=4)
    yield made
    await made.close()


@pytest.fixture
def archive(database: Database) -> Archive:
    """The store under the service role."""
    return Archive(database)


@pytest_asyncio.fixture
async def owner(cloned: TestDatabase) -> AsyncIterator[Any]:
    """A connection of the owner role."""
    connection = await connect(cloned.owner_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def service(cloned: TestDatabase) -> AsyncIterator[Any]:
    """A bare connection of the service role."""
    connection = await connect(cloned.service_url)
    yield connection
    await connection.close()
