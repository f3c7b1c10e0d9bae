"""What the tests ask the archive, as the service role would."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from datastorage.records.record import Table

_ROWS = {
    Table.AUDIT_RECORDS: """
        SELECT * FROM datastorage.audit_records WHERE namespace = $1 ORDER BY name, generation
    """,
    Table.ACTION_TRACES: """
        SELECT * FROM datastorage.action_traces WHERE namespace = $1 ORDER BY name, generation
    """,
}
_REJECTED = "SELECT * FROM datastorage.rejected_objects WHERE namespace = $1 ORDER BY name, generation"


async def rows(database_url: str, namespace: str, table: Table = Table.AUDIT_RECORDS) -> list[Any]:
    """Return all rows of a namespace; every one of them is checked against its hash."""
    connection = await asyncpg.connect(database_url)
    try:
        found: list[Any] = await connection.fetch(_ROWS[table], namespace)
    finally:
        await connection.close()
    for row in found:
        assert hashlib.sha256(row["content"]).digest() == row["content_hash"], row["name"]
    return found


async def rejected(database_url: str, namespace: str) -> list[Any]:
    """Return the dead letters of a namespace."""
    connection = await asyncpg.connect(database_url)
    try:
        found: list[Any] = await connection.fetch(_REJECTED, namespace)
    finally:
        await connection.close()
    return found


def uids(found: Sequence[Any]) -> list[str]:
    """Return the uids of rows, with repeats."""
    return [str(row["uid"]) for row in found]


async def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Poll an async condition until it is true, and return what it returned.

    Raises AssertionError naming ``what`` and the last value after ``seconds``.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        value = await condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s (last: {value!r})")
        await asyncio.sleep(0.05)
