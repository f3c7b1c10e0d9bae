"""Checks that the archive has the rows of objects whose status says stored: a status does not prove a row.

A row may be gone although the status remains: PostgreSQL was restored from a backup, or a failover lost the
last commits. Or the row may come from another object: a cluster was restored, or cloned. So rows are looked
up by the object's own spec.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from datastorage import metrics
from datastorage.metrics import MissingPhase
from datastorage.pipeline.clusterobject import Body, phase_of, read_or_log, unread_ref_of
from datastorage.pipeline.lookup import Answer, Archive, look_up
from datastorage.records.record import RecordKey, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import in_halves
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.reading.objectrecord import key_of
from datastorage.resources.reading.registry import table_of

_log = logging.getLogger(__name__)

_COUNTED_PHASES: Final = {phase.value: phase for phase in MissingPhase}


class Rejected(Protocol):
    """The store of rejected records (storage/rejected.py)."""

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> set[RecordKey]: ...


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Objects whose status says stored, divided by whether the archive has their rows.

    An object whose look-up PostgreSQL refused is in neither list.
    """

    stored: Sequence[Body]
    missing: Sequence[Body]


class Confirmation:
    """Looks up rows, and waits while PostgreSQL is away."""

    def __init__(self, archive: Archive, breaker: Breaker, rejected: Rejected) -> None:
        """``breaker`` is that of the tables in which rows are looked up."""
        self._archive = archive
        self._breaker = breaker
        self._rejected = rejected

    async def of_keys(self, kind: ResourceKind, keys: Sequence[RecordKey]) -> Answer:
        """Look up the rows of the keys."""
        return await look_up(self._archive, self._breaker, table_of(kind), keys)

    async def not_rejected(self, kind: ResourceKind, bodies: Sequence[Body]) -> Sequence[Body]:
        """Return the objects whose status says Rejected although their records are no longer rejected.

        The records were stored by a retry, or PostgreSQL was restored from a backup without them.
        """
        keyed = _keyed(kind, bodies)
        if not keyed:
            return []
        keys, unknown = [key for _, key in keyed], set[RecordKey]()
        find = partial(self._rejected.find, table_of(kind))
        found = await in_halves(self._breaker, find, keys, lambda key, _: unknown.add(key))
        still = unknown.union(*found)
        return [body for body, key in keyed if key not in still]

    async def of_objects(self, kind: ResourceKind, bodies: Sequence[Body]) -> Confirmed:
        """Divide the objects by whether their rows are there; count and log those whose rows are missing."""
        keyed = _keyed(kind, bodies)
        answer = await self.of_keys(kind, [key for _, key in keyed])
        known = answer.found.keys() | answer.unanswered.keys()
        missing = [body for body, key in keyed if key not in known]
        for body in missing:
            note_missing(kind, body)
        return Confirmed([body for body, key in keyed if key in answer.found], missing)


def note_missing(kind: ResourceKind, body: Body) -> None:
    """Count and log a stored object whose row the archive does not have, and which is stored again."""
    phase = phase_of(body) or ""
    metrics.ROWS_MISSING.labels(_COUNTED_PHASES.get(phase, MissingPhase.OTHER)).inc()
    _log.error(
        "The archive does not have the row of a stored object; storing it again",
        extra={**unread_ref_of(kind, body).as_log_fields(), "phase": phase},
    )


def _keyed(kind: ResourceKind, bodies: Sequence[Body]) -> list[tuple[Body, RecordKey]]:
    """Return the objects that can be read, each with the key under which its present spec is stored."""
    return [(body, key) for body in bodies if (key := read_or_log(kind, body, key_of)) is not None]
