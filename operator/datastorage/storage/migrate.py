"""Brings the database schema up to date. Run as the owner role, never by the service itself."""

import asyncio
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from datastorage.errors import ConfigurationError, TransientError
from datastorage.storage.database import check_url
from datastorage.storage.schema import SCHEMA, SCHEMA_VERSION, newer_schema

# Any constant will do, as long as every version of the program takes the same one.
_MIGRATION_LOCK: Final = 0x6461_7461_7374_6F72  # "datastor"
_CONNECT_TIMEOUT_SECONDS: Final = 30.0


def migrate(database_url: str) -> tuple[str | None, str]:
    """Migrate to the newest schema version; return the versions before and after.

    Safe to run from several replicas at once: one migrates, the others wait and find nothing to do.
    Everything happens in one transaction, so that a failure leaves the schema as it was.

    Raises SchemaVersionError when the schema is newer than this program, TransientError when the server
    can't be reached, ConfigurationError when the role lacks rights.
    """
    return asyncio.run(_migrate(database_url))


async def _migrate(database_url: str) -> tuple[str | None, str]:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        # The URL goes to the driver as it is, so that it means the same here and in the service.
        async_creator=lambda: _connect(database_url),
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_upgrade)
    except (DBAPIError, asyncpg.PostgresError) as error:
        # The scripts run on the driver itself, past SQLAlchemy and its errors.
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigurationError(f"the migration failed and changed nothing: {reason}") from error
    finally:
        await engine.dispose()


async def _connect(database_url: str) -> object:
    check_url(database_url, "DATASTORAGE_DATABASE_OWNER_URL")
    try:
        return await asyncpg.connect(database_url, timeout=_CONNECT_TIMEOUT_SECONDS)
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"DATASTORAGE_DATABASE_OWNER_URL: {error}") from error
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise TransientError(
            f"cannot connect to PostgreSQL to migrate: {error or type(error).__name__}"
        ) from error


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    # Held to the end of the transaction: the others start after this one has committed, and read its result.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context = MigrationContext.configure(
        connection, opts={"version_table": "schema_version", "version_table_schema": SCHEMA}
    )
    before = context.get_current_revision()
    if before is not None and before > SCHEMA_VERSION:
        raise newer_schema(before)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, SCHEMA_VERSION
