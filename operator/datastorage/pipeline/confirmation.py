"""Whether the archive has what objects of the cluster say: a status is no proof of a row.

A row may be gone while its status stays: PostgreSQL was restored from a backup, or a failover lost the last
commits. And another object may have made the row: a cluster was restored, or cloned. So rows are looked up by
what the object itself says.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from datastorage import metrics
from datastorage.breaker import Breaker
from datastorage.pipeline.extract import key_of, table_of
from datastorage.pipeline.workitem import ref_of
from datastorage.resources import ResourceKind
from datastorage.storage.records import RecordKey, StoredRecord, Table

_log = logging.getLogger(__name__)

Body = Mapping[str, Any]


class Archive(Protocol):
    """Where rows are looked up (storage/archive.py)."""

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]: ...


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Objects that say that they are stored: those that are, and those that are not."""

    stored: Sequence[Body]
    missing: Sequence[Body]


class Confirmation:
    """Looks rows up. Waits while PostgreSQL is away."""

    def __init__(self, archive: Archive, breaker: Breaker) -> None:
        """``breaker`` is that of PostgreSQL."""
        self._archive = archive
        self._breaker = breaker

    async def of_keys(self, kind: ResourceKind, keys: Sequence[RecordKey]) -> set[RecordKey]:
        """Return the keys whose rows are there."""
        if not keys:
            return set()
        return set(await self._breaker.run(partial(self._archive.find, table_of(kind), keys)))

    async def of_objects(self, kind: ResourceKind, bodies: Sequence[Body]) -> Confirmed:
        """Part objects that say that they are stored; count and log those whose rows are missing."""
        keyed = [(body, key) for body in bodies if (key := _readable_key(kind, body)) is not None]
        found = await self.of_keys(kind, [key for _, key in keyed])
        missing = [body for body, key in keyed if key not in found]
        for body in missing:
            phase = body["status"]["phase"]
            metrics.ROWS_MISSING.labels(phase).inc()
            _log.error(
                "An object says %s, and the archive does not have what it says; storing it again",
                phase,
                extra=ref_of(kind, body).as_log_fields(),
            )
        return Confirmed([body for body, key in keyed if key in found], missing)


def _readable_key(kind: ResourceKind, body: Body) -> RecordKey | None:
    try:
        return key_of(kind, body)
    except Exception:  # noqa: BLE001  # whatever it is, it is logged whole
        # No input is known that leads here. One that does must not stop what is done for all others.
        _log.exception(
            "Object can't be read; it stays in the cluster", extra=ref_of(kind, body).as_log_fields()
        )
        return None
