"""Migrates the database schemas to the newest version, as the owner role. The service never does this."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from datastorage.errors import ConfigurationError, TransientError
from datastorage.settings import Settings
from datastorage.storage.connection.connecting import connecting
from datastorage.storage.connection.opening import open_connection
from datastorage.storage.connection.urls import parse_url
from datastorage.storage.inspection import check_pgvector, check_rights, check_schema, check_server
from datastorage.storage.rights import grant_rights
from datastorage.storage.schema import ARCHIVE, SCHEMA, VECTORS, Chain, newer_schema

# The value is arbitrary, but every version of the program must use the same one.
_MIGRATION_LOCK: Final = 0x6461_7461_7374_6F72  # "datastor"
_CONNECT_TIMEOUT_SECONDS: Final = 30.0

_INSTALLED: Final = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
_AVAILABLE: Final = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"


def migrate_all(settings: Settings) -> list[tuple[str, str | None, str]]:
    """Migrate every chain that the settings need; return each chain's name and versions before and after.

    Raises the errors of ``migrate``. A chain that was migrated before the error stays migrated.
    """
    owner = settings.require_owner_url()
    done = [(ARCHIVE.name, *migrate(owner, ARCHIVE))]
    if settings.embedding.provider != "none":
        vectors = (
            _secret(settings.vector.database_owner_url) or _secret(settings.vector.database_url) or owner
        )
        done.append((VECTORS.name, *migrate(vectors, VECTORS)))
    return done


def _secret(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url is not None else None


def migrate(database_url: str, chain: Chain = ARCHIVE) -> tuple[str | None, str]:
    """Migrate to the newest schema version of a chain; return the versions before and after.

    Several processes may call this at once: one migrates, the others wait and find nothing to do. Everything
    happens in one transaction, so that a failure changes nothing.

    Raises SchemaVersionError when the schema is newer than this program, TransientError when the server
    can't be reached or ends, ConfigurationError when the role lacks rights or the server lacks pgvector.
    """
    return asyncio.run(_migrate(database_url, chain))


async def _migrate(database_url: str, chain: Chain) -> tuple[str | None, str]:
    engine: AsyncEngine = create_async_engine(
        "postgresql+asyncpg://",
        creator=lambda: _driver_of(engine).connect(
            # SQLAlchemy does not get the URL, because it would read it differently than the driver does.
            async_creator_fn=lambda: _connect(database_url, chain),
            # Behind a pooler, a named statement would stay in a session that another client uses next.
            prepared_statement_cache_size=0,
            prepared_statement_name_func=str,
        ),
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_upgrade, chain)
    except (DBAPIError, asyncpg.PostgresError) as error:
        # The scripts run on the driver itself, whose errors SQLAlchemy does not wrap.
        reason = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise TransientError(
                f"the migration of the {chain.name} was interrupted, and can be repeated: {reason}"
            ) from error
        is_missing_right = getattr(reason, "sqlstate", None) == asyncpg.InsufficientPrivilegeError.sqlstate
        hint = f": {chain.owner_setting} must name the owner" if is_missing_right else ""
        raise ConfigurationError(
            f"the migration of the {chain.name} failed and changed nothing: {reason}{hint}"
        ) from error
    finally:
        await engine.dispose()


def _driver_of(engine: AsyncEngine) -> Any:
    return engine.dialect.dbapi


async def _connect(database_url: str, chain: Chain) -> object:
    url = parse_url(database_url, chain.owner_setting)
    with connecting(f"{chain.server} at {url.address}", chain.owner_setting):
        seconds = max(url.connect_seconds, _CONNECT_TIMEOUT_SECONDS)
        return await open_connection(url, seconds, statement_cache_size=0)


def _upgrade(connection: Connection, chain: Chain) -> tuple[str | None, str]:
    # The lock is held until the end of the transaction: other replicas begin after this one has committed,
    # and see its result.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context = MigrationContext.configure(
        connection, opts={"version_table": chain.version_table, "version_table_schema": SCHEMA}
    )
    before = context.get_current_revision()
    if before is not None and before > chain.version:
        raise newer_schema(chain, before)
    if chain == VECTORS:
        _ensure_pgvector(connection)
    _on_driver(connection, lambda driver: check_server(driver, chain))
    scripts = Path(__file__).with_name("migrations")
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(scripts / chain.name))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = chain.version_table
    command.upgrade(config, "head")
    _on_driver(connection, lambda driver: _finish(driver, chain))
    return before, chain.version


async def _finish(driver: asyncpg.Connection, chain: Chain) -> None:
    await grant_rights(driver, chain)
    await check_rights(driver, chain)
    await check_schema(driver, chain)


def _on_driver(connection: Connection, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    """Run ``work`` with the connection of asyncpg, which SQLAlchemy's connection wraps."""
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(work)


def _ensure_pgvector(connection: Connection) -> None:
    if connection.execute(text(_INSTALLED)).scalar() is None:
        # If pgvector is too old or missing, that is reported before the attempt to create the extension,
        # which needs a superuser.
        check_pgvector(connection.execute(text(_AVAILABLE)).scalar())
        _create_extension(connection)


def _create_extension(connection: Connection) -> None:
    try:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise ConfigurationError(
            "this role may not install pgvector: let a superuser run CREATE EXTENSION vector in this database"
        ) from error
