"""Which schema this program works on, and the check at its start."""

from typing import Final, Protocol

from datastorage.errors import ConfigurationError, SchemaVersionError

SCHEMA: Final = "datastorage"
# The newest migration. Kept here as a constant so that the service need not load Alembic; a test holds
# it against the migration files.
SCHEMA_VERSION: Final = "0001"

_VERSION_TABLE_EXISTS: Final = "SELECT to_regclass('datastorage.schema_version') IS NOT NULL"
_SYNCHRONOUS_COMMIT: Final = "SELECT current_setting('synchronous_commit')"
_VERSION: Final = "SELECT version_num FROM datastorage.schema_version"


class _Connection(Protocol):
    async def fetchval(self, query: str) -> object: ...


async def check_schema_version(connection: _Connection) -> None:
    """Refuse to run on a schema other than the one this program was written for.

    Raises SchemaVersionError with what to do about it, ConfigurationError where PostgreSQL acknowledges
    commits that it may lose in a crash.
    """
    if await connection.fetchval(_SYNCHRONOUS_COMMIT) == "off":
        raise ConfigurationError(
            "PostgreSQL runs with synchronous_commit = off and may lose what it has acknowledged: "
            "set it to on for this role (ALTER ROLE … SET synchronous_commit = on)"
        )
    found = await connection.fetchval(_VERSION) if await connection.fetchval(_VERSION_TABLE_EXISTS) else None
    if found is None:
        raise SchemaVersionError(
            "the database has no datastorage schema yet: run 'datastorage migrate' as the owner role first"
        )
    version = str(found)
    if version < SCHEMA_VERSION:
        raise SchemaVersionError(
            f"the database schema is at version {version} and this program needs {SCHEMA_VERSION}: "
            "run 'datastorage migrate' as the owner role first"
        )
    if version > SCHEMA_VERSION:
        raise newer_schema(version)


def newer_schema(version: str) -> SchemaVersionError:
    """Return the error for a schema that a later version of the program has made."""
    return SchemaVersionError(
        f"the database schema is at version {version}, newer than version {SCHEMA_VERSION}, "
        "which this program knows: run a newer version of the program"
    )
