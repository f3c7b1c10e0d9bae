"""A stored record as it is returned to callers: the object, and whether its content is unchanged."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from datastorage.query.encoding import encoded
from datastorage.records.hashes import labelled, sha256
from datastorage.records.record import Via
from datastorage.records.times import rfc3339
from datastorage.resilience.pieces import in_pieces
from datastorage.resources.reading.registry import kind_of
from datastorage.storage.places import StoredRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArchivedRecord:
    """One generation of one object, as it was when it was stored."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    created_at: datetime
    stored_at: datetime
    content_hash: bytes = field(repr=False)
    """SHA-256 of the content, computed when the record was stored."""
    diverged: bool
    """Whether different content was stored under its uid and generation before, because the cluster was
    restored from a backup, or cloned. Both contents are kept; their hashes differ."""
    intact: bool
    """Whether the content still has this hash. If not, somebody has changed the content."""
    via: Via
    recorded_by: str | None
    """The authenticated name of the caller who sent it; None where nobody vouches for it."""
    content: bytes = field(repr=False)
    """The exact bytes: canonical JSON of the object."""

    @cached_property
    def object(self) -> Mapping[str, Any]:
        """The parsed content: apiVersion, kind, metadata and spec.

        Empty if the content is no longer JSON, or is nested more deeply than this process can read (see
        records/deepjson.py). A large content takes some tens of milliseconds, so the API does without.
        """
        return _parsed(self.content)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec of the object."""
        spec = self.object.get("spec")
        return spec if isinstance(spec, Mapping) else {}

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON, with the field names of the interfaces."""
        return {**self._description(), "record": self.object or None}

    def as_bytes(self, before: Mapping[str, Any] | None = None) -> bytes:
        """Return the bytes of the same JSON, after the members of ``before``.

        The content is JSON already. Unless somebody has changed it, it is neither parsed nor encoded again.
        """
        content = self.content if self.intact else encoded(self.object or None)
        return encoded({**(before or {}), **self._description()})[:-1] + b', "record": ' + content + b"}"

    def _description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "generation": self.generation,
            "createdAt": rfc3339(self.created_at),
            "storedAt": rfc3339(self.stored_at),
            "contentHash": labelled(self.content_hash),
            "diverged": self.diverged,
            "intact": self.intact,
            "via": str(self.via),
            "recordedBy": self.recorded_by,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Records, the newest first."""

    records: tuple[ArchivedRecord, ...]
    cursor: str | None
    """The cursor of the next page; None on the last."""


def archived(row: StoredRow) -> ArchivedRecord:
    """Return a row as a record, after checking its content against its hash."""
    key = row.place.key
    intact = sha256(row.content) == row.content_hash
    if not intact:
        _log.error(
            "A stored record has been changed: its content does not match its hash",
            extra={"uid": key.uid, "generation": key.generation, "table": row.place.table.value},
        )
    return ArchivedRecord(
        kind_of(row.place.table).kind, row.namespace, row.name, key.uid, key.generation, key.created_at,
        row.stored_at, row.content_hash, row.diverged, intact, row.via, row.recorded_by,
        row.content,
    )  # fmt: skip


async def archived_all(rows: Iterable[StoredRow]) -> list[ArchivedRecord]:
    """Return rows as records, as ``archived`` does, with room for other work in between."""
    return [record async for record in in_pieces(map(archived, rows), lambda record: len(record.content))]


def _parsed(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
