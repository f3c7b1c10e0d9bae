"""Reads an archive with SQL, under the role of a URL."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from datastorage.records.record import Table

_ROWS: Final = {
    Table.AUDIT_RECORDS: """
        SELECT * FROM datastorage.audit_records WHERE namespace = $1 ORDER BY name, generation
    """,
    Table.ACTION_TRACES: """
        SELECT * FROM datastorage.action_traces WHERE namespace = $1 ORDER BY name, generation
    """,
}
_REJECTED: Final = "SELECT * FROM datastorage.rejected_objects WHERE namespace = $1 ORDER BY name, generation"


async def fetch(url: str, sql: str, *arguments: object) -> list[Any]:
    """Return all rows of a query, over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        found: list[Any] = await connection.fetch(sql, *arguments)
    finally:
        await connection.close()
    return found


def fetch_now(url: str, sql: str, *arguments: object) -> list[Any]:
    """Return all rows of a query, for callers without an event loop."""
    return asyncio.run(fetch(url, sql, *arguments))


async def rows(url: str, namespace: str, table: Table = Table.AUDIT_RECORDS) -> list[Any]:
    """Return all rows of a namespace. Raises AssertionError if a content does not match its hash."""
    found = await fetch(url, _ROWS[table], namespace)
    for row in found:
        assert hash_is_right(row["content"], row["content_hash"]), row["name"]
    return found


async def rejected(url: str, namespace: str) -> list[Any]:
    """Return the rejected objects of a namespace."""
    return await fetch(url, _REJECTED, namespace)


def uids(found: Sequence[Any]) -> list[str]:
    """Return the uids of rows, with repeats."""
    return [str(row["uid"]) for row in found]


def hash_is_right(content: bytes, content_hash: bytes) -> bool:
    """Return whether stored bytes match their stored hash."""
    return hashlib.sha256(content).digest() == content_hash
