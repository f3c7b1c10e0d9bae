"""Makes stored records searchable by the words that new ones are searched by, while everything else runs.

Each row says whether it has these words, so a run may be stopped at any point and continued later. The
operator and another run may be at work at the same time: at worst, some work is done twice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from datastorage.records.naming import MAX_NAMED
from datastorage.records.record import RecordKey, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.dividing import chunks, in_halves, read_page
from datastorage.resources.reading.fields import mapping_in
from datastorage.resources.reading.registry import reading_of_table
from datastorage.storage.searchwords import Row
from datastorage.storage.texts import FIRST_ROW


@dataclass(frozen=True)
class Pace:
    """How much is done at once."""

    page_rows: int = 2_000
    """Rows that are looked at: after a run that was stopped, most of them need nothing."""
    chunk_rows: int = 200
    """Rows that change in one transaction. It holds their locks for some tens of milliseconds, and no other
    program changes them."""
    chunk_bytes: int = 4 * 1024 * 1024
    """Bytes of the contents read at once: a single one may have 1.5 MB."""


class Words(Protocol):
    """The words of rows (storage/searchwords.py)."""

    async def count(self) -> int: ...
    async def rows(self, table: Table, after: RecordKey, limit: int) -> list[Row]: ...
    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]: ...
    async def replace(self, table: Table, words: Sequence[tuple[RecordKey, str]]) -> int: ...


@dataclass
class ReindexProgress:
    """How far a run has come."""

    done: int = 0
    """Rows that were looked at."""
    total: int | None = None
    """Rows that there are; None until they are counted. Some may come while the run goes on."""
    changed: int = 0
    """Rows that got their words from this run."""
    skipped: int = 0
    """Rows that keep the words that they have."""
    skipped_named: list[str] = field(default_factory=list)
    """The first of these, each with the reason."""

    def stages(self) -> list[tuple[str, int, int | None]]:
        """Return the only stage, with its ``done`` and ``total``."""
        return [("records", self.done, self.total)]

    def advance(self, count: int) -> None:
        """Add to ``done``."""
        self.done += count
        self.total = max(self.total or 0, self.done)

    def skip(self, table: Table, key: RecordKey, reason: object) -> None:
        """Note a row that is left as it is."""
        self.skipped += 1
        if len(self.skipped_named) < MAX_NAMED:
            kind = reading_of_table(table).kind.kind
            self.skipped_named.append(f"{kind} {key.uid}, generation {key.generation}: {reason}")


class Reindex:
    """One run over all rows."""

    def __init__(self, words: Words, postgres: Breaker, pace: Pace = Pace()) -> None:
        self._words = words
        self._postgres = postgres
        self._pace = pace
        self.progress = ReindexProgress()

    def away(self) -> dict[str, str]:
        """Return the dependencies that the run waits for, each with the reason."""
        why = self._postgres.why_waiting
        return {} if why is None else {"PostgreSQL": why}

    async def run(self) -> None:
        """Give all old rows their words; wait while PostgreSQL is away."""
        self.progress.total = await self._postgres.run(self._words.count)
        for table in Table:
            await self._table(table)

    async def _table(self, table: Table) -> None:
        after = FIRST_ROW
        while page := await read_page(
            self._postgres, partial(self._words.rows, table, after), self._pace.page_rows
        ):
            old = [row for row in page if row.is_old]
            self.progress.advance(len(page) - len(old))
            for start in range(0, len(old), self._pace.chunk_rows):
                some = old[start : start + self._pace.chunk_rows]
                for chunk in chunks(some, lambda row: row.size, self._pace.chunk_bytes):
                    await self._replace(table, [row.key for row in chunk])
                    self.progress.advance(len(chunk))
            after = page[-1].key

    async def _replace(self, table: Table, keys: Sequence[RecordKey]) -> None:
        async def write(words: Sequence[tuple[RecordKey, str]]) -> None:
            # Another run may have been quicker, and a row may be gone.
            self.progress.changed += await self._words.replace(table, words)

        contents = await in_halves(
            self._postgres, partial(self._words.contents, table), keys, partial(self.progress.skip, table)
        )
        words = []
        for key, content in (entry for found in contents for entry in found.items()):
            try:
                words.append((key, _words(table, content)))
            except (ValueError, RecursionError) as error:
                self.progress.skip(table, key, f"its content can't be read ({type(error).__name__})")
        await in_halves(
            self._postgres, write, words, lambda entry, error: self.progress.skip(table, entry[0], error)
        )


def _words(table: Table, content: bytes) -> str:
    """Return the words of a stored content. Raises ValueError and RecursionError when it can't be read."""
    body = json.loads(content)
    if not isinstance(body, dict):
        raise ValueError("no object")  # noqa: TRY004  # of the content, not of a type
    return reading_of_table(table).words(mapping_in(body, "spec"))
