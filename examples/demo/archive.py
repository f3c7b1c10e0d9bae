"""Reads PostgreSQL with the service's own rights."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from harness.archive import fetch_now, hash_is_right

TABLES = ("audit_records", "action_traces", "rejected_objects")
# The demo uses one model; its vectors are in the first table.
VECTORS = "datastorage.embeddings_1"
ROWS = """
    SELECT namespace, name, text_hash FROM datastorage.audit_records
    UNION ALL SELECT namespace, name, text_hash FROM datastorage.action_traces
"""
WITHOUT_VECTOR = f"""
    SELECT namespace || '/' || name FROM ({ROWS}) AS r
    WHERE NOT EXISTS (SELECT FROM {VECTORS} e WHERE e.text_hash = r.text_hash) ORDER BY 1
"""
TEXTS = f"""
    SELECT count(*), count(DISTINCT text_hash), (SELECT count(*) FROM {VECTORS}) FROM ({ROWS}) AS r
"""


class Row(NamedTuple):
    """One stored generation of one object."""

    uid: str
    generation: int
    namespace: str
    name: str
    content: bytes
    content_hash: bytes

    @property
    def spec(self) -> Any:
        """The spec of the object, from the stored bytes."""
        return json.loads(self.content)["spec"]

    @property
    def hash_is_right(self) -> bool:
        return hash_is_right(self.content, self.content_hash)


class Archive:
    """Reads the tables. `database_url` gives the URL, which may not be known at first."""

    def __init__(self, database_url: Callable[[], str]) -> None:
        self._database_url = database_url

    def query(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return [tuple(row) for row in fetch_now(self._database_url(), sql, *arguments)]

    def rows(self, table: str) -> list[Row]:
        """Return all rows of a table of stored objects, oldest first."""
        columns = "uid::text, generation, namespace, name, content, content_hash"
        order = "created_at, name, generation"
        return [
            Row(*row) for row in self.query(f"SELECT {columns} FROM datastorage.{table} ORDER BY {order}")
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table."""
        return {table: self.query(f"SELECT count(*) FROM datastorage.{table}")[0][0] for table in TABLES}

    def texts(self) -> tuple[int, int, int]:
        """Return the number of rows, of texts that they share, and of vectors."""
        rows, texts, vectors = self.query(TEXTS)[0]
        return rows, texts, vectors

    def pending(self) -> int:
        """Return the number of pending vectors."""
        count: int = self.query("SELECT count(*) FROM datastorage.vector_outbox")[0][0]
        return count

    def without_vector(self) -> list[str]:
        """Return the records whose text has no vector."""
        return [name for (name,) in self.query(WITHOUT_VECTOR)]
