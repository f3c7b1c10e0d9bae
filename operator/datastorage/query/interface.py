"""The questions to an archive, whichever way they reach it.

The command line puts the same questions to a database (query/questions.py) and to a server over HTTP
(client/archive.py), and prints the same answers. The REST API puts its questions to the database, or to a
standby of it (query/standbyqueries.py).
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from datastorage.query.archivedrecord import ArchivedRecord, Page
from datastorage.query.archivesummary import ArchiveSummary
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.listedrecord import ListPage
from datastorage.query.searchresult import SearchResult
from datastorage.query.targethistory import TargetHistory
from datastorage.query.timeline import Timeline
from datastorage.storage.criteria import Scope


class Lookups(Protocol):
    """The questions that have one form for everybody who asks.

    All methods of an archive raise InvalidQueryError for a question that can't be answered as it was put,
    RecordNotFoundError where a record is asked for that does not exist, and TransientError when the archive
    can't be asked now. Only rows within the scope are found.
    """

    async def get(
        self, uid: str, generation: int | None, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord:
        """Return an object's newest generation, or the given one."""
        ...

    async def get_by_name(
        self, namespace: str, name: str, kind: str | None, *, scope: Scope
    ) -> ArchivedRecord:
        """Return the newest generation of the newest object with a name."""
        ...

    async def history(self, uid: str, kind: str | None, *, scope: Scope) -> tuple[ArchivedRecord, ...]:
        """Return an object's generations, the newest first."""
        ...

    async def timeline(
        self, correlation_id: str, *, scope: Scope, limit: int, cursor: str | None
    ) -> Timeline:
        """Return the records of an incident in the order of time."""
        ...


class Archive(Lookups, Protocol):
    """An archive, open for the questions of commands: a server sets their scope, and a database has none."""

    async def search(
        self,
        question: str,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        mode: SearchMode,
        limit: int,
        flat: bool,
    ) -> SearchResult:
        """Return the records that answer a question best; unless ``flat``, those of an incident together."""
        ...

    async def list(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """Return a page of records, the newest first."""
        ...

    async def target_history(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        limit: int,
        cursor: str | None,
    ) -> TargetHistory:
        """Return what was done to the object that the filter names by its target, the newest first."""
        ...

    async def summary(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        by: Sequence[str],
        *,
        limit: int,
    ) -> ArchiveSummary:
        """Return the number of records, and what came of them, by one or two keys."""
        ...


class ScopedArchive(Lookups, Protocol):
    """An archive, open for the questions of the REST API, each within the rights of its caller."""

    async def search(
        self,
        question: str,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        mode: SearchMode,
        limit: int,
        flat: bool,
        scope: Scope,
    ) -> SearchResult:
        """Return the records that answer a question best; unless ``flat``, those of an incident together."""
        ...

    async def list_page(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        limit: int,
        cursor: str | None,
        with_content: bool,
        scope: Scope,
    ) -> ListPage:
        """Return a page of outlines, the newest first; contents are read if they are asked for."""
        ...

    async def target_history(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        *,
        limit: int,
        cursor: str | None,
        scope: Scope,
    ) -> TargetHistory:
        """Return what was done to the object that the filter names by its target, the newest first."""
        ...

    async def summary(
        self,
        filter: Filter,  # noqa: A002  # the word of the interface
        by: Sequence[str],
        *,
        limit: int,
        scope: Scope,
    ) -> ArchiveSummary:
        """Return the number of records, and what came of them, by one or two keys."""
        ...


class Export(Protocol):
    """One export under way (query/export.py)."""

    @property
    def changed(self) -> int:
        """Records so far that are not as they were stored."""
        ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the lines. Raises TransientError where the export breaks off."""
        ...


class Exports(Protocol):
    """An archive, open for exports."""

    async def begin(self, filter: Filter, *, token: str | None) -> Export:  # noqa: A002  # the word of the interface
        """Return an export of what is committed now; with a token, of what comes after it."""
        ...
