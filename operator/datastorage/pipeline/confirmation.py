"""Whether the archive has what objects of the cluster say: a status is no proof of a row.

A row may be gone while its status stays: PostgreSQL was restored from a backup, or a failover lost the last
commits. And another object may have made the row: a cluster was restored, or cloned. So rows are looked up by
what the object itself says.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datastorage import metrics
from datastorage.pipeline.item import ref_of, unread_ref_of
from datastorage.pipeline.lookup import Answer, Archive, look_up
from datastorage.records.record import RecordKey
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import in_halves
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.reading.record import key_of
from datastorage.resources.reading.registry import table_of

_log = logging.getLogger(__name__)

Body = Mapping[str, Any]


class Rejected(Protocol):
    """Where rejected records are kept (storage/rejected.py)."""

    async def find(self, keys: Sequence[RecordKey]) -> set[RecordKey]: ...


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Objects that say that they are stored: those that are, and those that are not.

    One of which PostgreSQL could not tell is among neither.
    """

    stored: Sequence[Body]
    missing: Sequence[Body]


class Confirmation:
    """Looks rows up. Waits while PostgreSQL is away."""

    def __init__(self, archive: Archive, breaker: Breaker, rejected: Rejected) -> None:
        """``breaker`` is that of PostgreSQL."""
        self._archive = archive
        self._breaker = breaker
        self._rejected = rejected

    async def of_keys(self, kind: ResourceKind, keys: Sequence[RecordKey]) -> Answer:
        """Return which of the keys' rows are there."""
        return await look_up(self._archive, self._breaker, table_of(kind), keys)

    async def not_rejected(self, kind: ResourceKind, bodies: Sequence[Body]) -> Sequence[Body]:
        """Return those of the objects that say Rejected which are not any more.

        Somebody has had them tried again, or what was kept of them is gone with a restored backup.
        """
        keyed = [(body, key) for body in bodies if (key := _readable_key(kind, body)) is not None]
        if not keyed:
            return []
        keys, unknown = [key for _, key in keyed], set[RecordKey]()
        parts = await in_halves(self._breaker, self._rejected.find, keys, lambda key, _: unknown.add(key))
        still = unknown.union(*parts)
        return [body for body, key in keyed if key not in still]

    async def of_objects(self, kind: ResourceKind, bodies: Sequence[Body]) -> Confirmed:
        """Part objects that say that they are stored; count and log those whose rows are missing."""
        keyed = [(body, key) for body in bodies if (key := _readable_key(kind, body)) is not None]
        answer = await self.of_keys(kind, [key for _, key in keyed])
        known = answer.found.keys() | answer.unanswered.keys()
        missing = [body for body, key in keyed if key not in known]
        for body in missing:
            phase = body["status"]["phase"]
            metrics.ROWS_MISSING.labels(phase).inc()
            _log.error(
                "An object says %s, and the archive does not have what it says; storing it again",
                phase,
                extra=ref_of(kind, body).as_log_fields(),
            )
        return Confirmed([body for body, key in keyed if key in answer.found], missing)


def _readable_key(kind: ResourceKind, body: Body) -> RecordKey | None:
    try:
        return key_of(kind, body)
    except Exception:  # noqa: BLE001  # whatever it is, it is logged whole
        # No input is known that leads here. One that does must not stop what is done for all others.
        _log.exception(
            "Object can't be read; it stays in the cluster", extra=unread_ref_of(kind, body).as_log_fields()
        )
        return None
