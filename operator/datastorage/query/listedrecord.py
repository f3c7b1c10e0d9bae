"""A record in a list: what its columns say, and its content if that was asked for."""

from dataclasses import dataclass
from typing import Any

from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.records.hashes import labelled
from datastorage.records.times import rfc3339
from datastorage.resources.reading.registry import kind_of
from datastorage.storage.places import Outline


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """A record of a list."""

    outline: Outline
    record: ArchivedRecord | None
    """The record with its content; None if that was not asked for, and so was not read."""

    def as_json(self) -> dict[str, Any]:
        """Return the outline as JSON, with the field names of the interfaces."""
        outline, key = self.outline, self.outline.place.key
        return {
            "kind": kind_of(outline.place.table).kind,
            "namespace": outline.namespace,
            "name": outline.name,
            "uid": key.uid,
            "generation": key.generation,
            "createdAt": rfc3339(key.created_at),
            "storedAt": rfc3339(outline.stored_at),
            "contentHash": labelled(outline.content_hash),
            "diverged": outline.diverged,
            "via": str(outline.via),
            "recordedBy": outline.recorded_by,
            "correlationID": outline.correlation_id,
            "type": outline.type,
            "action": outline.action,
            "phase": outline.phase,
            "severity": outline.severity,
            "target": dict(zip(("kind", "namespace", "name"), outline.target, strict=True)),
        }


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list, the newest records first."""

    items: tuple[ListedRecord, ...]
    cursor: str | None
    """The cursor of the next page; None on the last."""
