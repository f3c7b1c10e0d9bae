"""The records of one remediation in the order in which things happened.

There is one order, made of columns that never change once a row is stored, so that a page can begin where
another ended and shows nothing that belongs before it:

1. The time of the event (``happened_at``, made by PostgreSQL). An AuditRecord stands at its
   startTime, or at its creation where it has none. A generation of an ActionTrace stands where its newest
   news is: the last of its creation, the start and the end of its execution, and its assessment. A generation
   without news (a change of the parameters, say) shares the time of the one before it. So a trace reads as
   chosen, begun, ended, assessed, whenever the archive came to know of it.
2. Creation times, and many others, have whole seconds. Where times are equal, the order is that in which the
   cluster wrote the objects (``resource_version``), and with it that of a trace's generations.
3. Where that is not known, as of rows from before it was kept: the generation, then the order of storing
   (``stored_order``).
"""

from dataclasses import dataclass
from datetime import datetime

from datastorage.query.archivedrecord import ArchivedRecord


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A record, and the time of its event."""

    at: datetime
    record: ArchivedRecord


@dataclass(frozen=True, slots=True)
class Timeline:
    """A remediation, or a page of it."""

    entries: tuple[TimelineEntry, ...]
    cursor: str | None
    """The cursor of the next page; None on the last."""

    @property
    def complete(self) -> bool:
        """Whether nothing follows."""
        return self.cursor is None
