"""The records of one incident in the order in which their events happened.

The order uses only columns that never change once a row is stored. So a page can begin where another one
ended, and shows nothing that belongs before it. The order is by:

1. The time of the event (``happened_at``, computed by PostgreSQL). For an AuditRecord this is its startTime,
   or its creation if it has none. For a generation of an ActionTrace it is the latest of its creation, the
   start and the end of its execution, and its assessment. A generation that adds none of these (it changes
   the parameters, say) shares the time of the one before it. So a trace reads as chosen, begun, ended,
   assessed, whenever the archive received it.
2. The order in which the cluster wrote the objects (``resource_version``), and with it that of a trace's
   generations: creation times, and many others, have whole seconds.
3. The generation, then the order of storing (``stored_order``), if the order of writing is unknown, as for
   rows from before it was recorded.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.records.times import rfc3339


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A record, and the time of its event."""

    at: datetime
    record: ArchivedRecord

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON, with the field names of the interfaces."""
        return {"at": rfc3339(self.at), **self.record.as_json()}

    def as_bytes(self) -> bytes:
        """Return the bytes of the same JSON."""
        return self.record.as_bytes({"at": rfc3339(self.at)})


@dataclass(frozen=True, slots=True)
class Timeline:
    """An incident, or a page of it."""

    entries: tuple[TimelineEntry, ...]
    cursor: str | None
    """The cursor of the next page; None on the last."""

    @property
    def complete(self) -> bool:
        """Whether this is the last page."""
        return self.cursor is None
