"""Tries rejected records again, from their kept bytes."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from datastorage.errors import DataStorageError
from datastorage.records.hashes import sha256
from datastorage.records.naming import MAX_NAMED
from datastorage.records.record import Record, RecordKey, StoredRecord
from datastorage.resilience.dividing import chunks, in_halves_without_breaker
from datastorage.resources.reading.objectrecord import record_of_content
from datastorage.storage.rejected import Content, RejectedCriteria, RejectedPosition, RejectedRecord

_RECORDS_PER_PAGE: Final = 500
# Bytes of the contents in memory at once: a single one may have 1.5 MB.
_CHUNK_BYTES: Final = 4 * 1024 * 1024


class Rejected(Protocol):
    """The store of rejected records (storage/rejected.py)."""

    async def list(
        self, criteria: RejectedCriteria, *, after: RejectedPosition | None, limit: int
    ) -> list[RejectedRecord]: ...
    async def contents(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Content]: ...
    async def resolve(self, keys: Sequence[RecordKey]) -> int: ...


Store = Callable[[Sequence[Record]], Awaitable[list[StoredRecord]]]
"""Stores records in one transaction, their vectors pending; a repeat changes nothing."""


@dataclass
class RetryProgress:
    """The progress of a retry."""

    stored: int = 0
    refused: int = 0
    """Records that are still refused."""
    refused_named: list[tuple[RejectedRecord, str]] = field(default_factory=list)
    """The first refused records, each with the reason."""

    @property
    def done(self) -> int:
        """The number of records that were tried."""
        return self.stored + self.refused

    def refuse(self, rejected: RejectedRecord, reason: str) -> None:
        """Note a record that is still refused."""
        self.refused += 1
        if len(self.refused_named) < MAX_NAMED:
            self.refused_named.append((rejected, reason))


class Retry:
    """One retry. It may run while the operator runs: one of them stores a row, and the other finds it."""

    def __init__(self, *, rejected: Rejected, store: Store, with_texts: bool) -> None:
        """``with_texts``: whether records get vectors."""
        self._rejected = rejected
        self._store = store
        self._with_texts = with_texts
        self.progress = RetryProgress()

    async def run(self, criteria: RejectedCriteria) -> RetryProgress:
        """Try all records that meet the criteria. Raises TransientError when PostgreSQL can't serve."""
        async for page in self._pages(criteria):
            for chunk in chunks(page, lambda rejected: rejected.size, _CHUNK_BYTES):
                await self._retry(chunk)
        return self.progress

    async def _pages(self, criteria: RejectedCriteria) -> AsyncIterator[list[RejectedRecord]]:
        after: RejectedPosition | None = None
        while page := await self._rejected.list(criteria, after=after, limit=_RECORDS_PER_PAGE):
            yield page
            after = page[-1].position

    async def _retry(self, chunk: Sequence[RejectedRecord]) -> None:
        contents = await self._rejected.contents([rejected.key for rejected in chunk])
        records: list[tuple[RejectedRecord, Record]] = []
        for rejected in chunk:
            try:
                records.append((rejected, self._record(rejected, contents[rejected.key])))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                why = f"its bytes can't be read as a record ({type(error).__name__})"
                self.progress.refuse(rejected, why)
            except DataStorageError as error:
                self.progress.refuse(rejected, str(error))
        for keys in await in_halves_without_breaker(
            self._store_all, records, lambda item, error: self.progress.refuse(item[0], str(error))
        ):
            await self._rejected.resolve(keys)
            self.progress.stored += len(keys)

    def _record(self, rejected: RejectedRecord, kept: Content) -> Record:
        if sha256(kept.content) != kept.content_hash:
            raise DataStorageError("its bytes have been changed: they do not match their hash")
        body = json.loads(kept.content)
        return record_of_content(rejected.table, rejected.key, body, kept.content, with_text=self._with_texts)

    async def _store_all(self, records: Sequence[tuple[RejectedRecord, Record]]) -> list[RecordKey]:
        await self._store([record for _, record in records])
        return [record.key for _, record in records]
