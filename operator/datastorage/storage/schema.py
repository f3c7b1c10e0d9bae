"""The schemas that this program works on, and the check of their versions."""

from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg

from datastorage.errors import ConfigurationError, NewerSchemaError, SchemaVersionError

SCHEMA: Final = "datastorage"


@dataclass(frozen=True, slots=True)
class Chain:
    """One series of migrations. There are two, because the vectors may be on another server.

    Settings and server are only words for messages: a chain is the same one on every server.
    """

    name: str
    """The name of its folder in migrations/."""
    version: str
    """The number of the newest migration. It is a constant so that the service need not load Alembic; a test
    compares it with the files."""
    version_table: str
    setting: str = field(compare=False)
    """The setting that names the service's database, for messages."""
    owner_setting: str = field(compare=False)
    server: str = field(default="PostgreSQL", compare=False)
    """Name of the server in messages."""


ARCHIVE: Final = Chain(
    "archive", "0009", "schema_version", "DATASTORAGE_DATABASE_URL", "DATASTORAGE_DATABASE_OWNER_URL"
)
STANDBY: Final = replace(ARCHIVE, setting="DATASTORAGE_READ_DATABASE_URL", server="the standby of PostgreSQL")
"""The archive, in the copy that a standby has."""
VECTORS: Final = Chain(
    "vectors", "0002", "vector_schema_version", "DATASTORAGE_VECTOR_DATABASE_URL",
    "DATASTORAGE_VECTOR_DATABASE_OWNER_URL", "PostgreSQL of the vectors",
)  # fmt: skip

_VERSION_TABLE_EXISTS: Final = "SELECT to_regclass('datastorage.' || $1) IS NOT NULL"
_SYNCHRONOUS_COMMIT: Final = "SELECT current_setting('synchronous_commit')"
_VERSION: Final[dict[Chain, str]] = {
    ARCHIVE: "SELECT version_num FROM datastorage.schema_version",
    VECTORS: "SELECT version_num FROM datastorage.vector_schema_version",
}


async def check_schema_version(connection: asyncpg.Connection, chain: Chain) -> None:
    """Check that the schema is the one that this program was written for.

    Raises SchemaVersionError with the remedy, and ConfigurationError if PostgreSQL acknowledges commits that
    it may lose in a crash.
    """
    # The vectors' database need not commit synchronously: a lost vector can be made again from its text.
    if chain == ARCHIVE and await connection.fetchval(_SYNCHRONOUS_COMMIT) == "off":
        raise ConfigurationError(
            "PostgreSQL runs with synchronous_commit = off and may lose commits that it has acknowledged: "
            "set it to on for this role (ALTER ROLE … SET synchronous_commit = on)"
        )
    found = None
    if await connection.fetchval(_VERSION_TABLE_EXISTS, chain.version_table):
        found = await connection.fetchval(_VERSION[chain])
    if found is None:
        hint = (
            "" if chain == ARCHIVE else ", or set DATASTORAGE_EMBEDDING_PROVIDER=none to do without vectors"
        )
        raise SchemaVersionError(
            f"the database has no datastorage schema for the {chain.name} yet: "
            f"run 'datastorage migrate' as the owner role first{hint}"
        )
    version = str(found)
    if version < chain.version:
        raise SchemaVersionError(
            f"the database schema of the {chain.name} is at version {version} and this program needs "
            f"{chain.version}: run 'datastorage migrate' as the owner role first"
        )
    if version > chain.version:
        raise newer_schema(chain, version)


def newer_schema(chain: Chain, version: str) -> NewerSchemaError:
    """Return the error for a schema that a newer version of the program has made."""
    return NewerSchemaError(
        f"the database schema of the {chain.name} is at version {version}, newer than version "
        f"{chain.version}, which this program knows: run a newer version of the program"
    )
