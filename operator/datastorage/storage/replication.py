"""Asks a server how far it is in the write-ahead log, to compare a standby with its primary."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from datastorage.storage.connection.database import Database

# A commit that was acknowledged is in the flushed log of the primary. Every role may call these functions.
_STATE: Final = """
    SELECT pg_catalog.pg_is_in_recovery() AS is_standby,
        (pg_catalog.pg_control_system()).system_identifier AS cluster,
        (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()) AS database,
        pg_catalog.pg_postmaster_start_time() AS started_at,
        (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint AS position
"""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a server says of itself."""

    is_standby: bool
    cluster: int
    """The number that a primary shares with its standbys, and with no other server."""
    database: int
    started_at: datetime
    position: int
    """Bytes of the write-ahead log: flushed on a primary, applied on a standby."""


async def state_of(database: Database) -> ServerState:
    """Return the state of a server. Raises TransientError when it can't serve."""
    async with database.connection() as connection:
        row = await connection.fetchrow(_STATE)
    return ServerState(
        row["is_standby"], row["cluster"], row["database"], row["started_at"], row["position"] or 0
    )
