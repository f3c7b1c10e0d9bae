"""The records of one remediation in the order in which their events happened.

There is one order, by columns that never change once a row is stored, so that a page can begin where another
one ended, and shows nothing that belongs before it:

1. The time of the event (``happened_at``, computed by PostgreSQL). An AuditRecord has its
   startTime, or its creation if it has none. A generation of an ActionTrace has the time of its newest
   news: the last of its creation, the start and the end of its execution, and its assessment. A generation
   without news (a change of the parameters, say) shares the time of the one before it. So a trace reads as
   chosen, begun, ended, assessed, whenever the archive received it.
2. Creation times, and many others, have whole seconds. Where times are equal, the order is that in which the
   cluster wrote the objects (``resource_version``), and with it that of a trace's generations.
3. If that is unknown, as for rows from before it was recorded: the generation, then the order of storing
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
        """Whether this is the last page."""
        return self.cursor is None
