"""The dual write: rows and their vectors, together where one server keeps both, else one after the other.

The row is what counts. A vector that can't be written leaves an entry in the outbox, in the transaction of
its row, so that it is owed and never forgotten.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from datastorage.errors import TransientError, WorkRefusedError
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vector import Vector
from datastorage.records.writes import VectorWrite, WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.storage.archive import Archive, distinct_texts
from datastorage.storage.outbox import Outbox
from datastorage.storage.vectors import VectorTables

# On another server the vectors follow the rows within this time, before the backfill cares for them.
_FOLLOW_SECONDS: Final = 5.0
# As many as a batch has records.
_MOST_VECTORS: Final = 500
_TOO_MANY: Final = TransientError("PostgreSQL does not take so many at once at present")
# The write path waits no longer for another server's answer.
_PATIENCE_SECONDS: Final = 3.0


class DualWrite:
    """Stores records with their vectors."""

    def __init__(
        self,
        *,
        archive: Archive,
        outbox: Outbox,
        vectors: VectorTables,
        breaker: Breaker,
        model: str,
        same_server: bool,
    ) -> None:
        """``breaker`` is that of the vectors' tables; ``model`` is how the status names their model."""
        self._archive = archive
        self._outbox = outbox
        self._vectors = vectors
        self._breaker = breaker
        self._written = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model=model)
        self._model = model
        # How many vectors are written beside rows at once: fewer after that was too much.
        self._most = _MOST_VECTORS
        self._store = self._store_together if same_server else self._store_in_turn

    async def store(
        self, records: Sequence[Record], vectors: Mapping[bytes, Vector], owed: Mapping[bytes, VectorWrite]
    ) -> list[StoredRecord]:
        """Store all records in one transaction; return what the archive now holds for each, in order.

        The hash of each record's text is in ``vectors``, or in ``owed`` with the reason.

        Raises RecordRefusedError and TransientError as Archive.store does, and only for the rows' sake.
        """
        return await self._store(records, vectors, owed)

    async def _store_together(
        self, records: Sequence[Record], vectors: Mapping[bytes, Vector], owed: Mapping[bytes, VectorWrite]
    ) -> list[StoredRecord]:
        if vectors and not self._vectors.is_known:
            # On a connection of its own, and so ahead of the transaction: a server may end one that is idle.
            with suppress(TransientError):
                await self._breaker.attempt(self._vectors.model_id)
        return await self._archive.store(records, partial(self._write_beside, records, vectors, owed))

    async def _write_beside(
        self,
        records: Sequence[Record],
        vectors: Mapping[bytes, Vector],
        owed: Mapping[bytes, VectorWrite],
        connection: Any,
    ) -> Mapping[bytes, VectorWrite]:
        known = [key for key in distinct_texts(records) if key in vectors]
        outcome = dict(owed) | dict.fromkeys(known[self._most :], self._unavailable(_TOO_MANY))
        wanted = {key: vectors[key] for key in known[: self._most]}
        if wanted:
            try:
                await self._breaker.attempt(lambda: self._vectors.insert_in(connection, wanted))
                outcome |= dict.fromkeys(wanted, self._written)
                self._most = min(self._most + self._most // 8 + 1, _MOST_VECTORS)
            except TransientError as error:
                outcome |= dict.fromkeys(wanted, self._unavailable(error))
                if isinstance(error, WorkRefusedError):
                    self._most = max(1, len(wanted) // 2)
        await self._note_owed(connection, records, outcome, due_seconds=0.0)
        return outcome

    async def _store_in_turn(
        self, records: Sequence[Record], vectors: Mapping[bytes, Vector], owed: Mapping[bytes, VectorWrite]
    ) -> list[StoredRecord]:
        wanted = {key: vectors[key] for key in distinct_texts(records) if key in vectors}
        following = VectorWrite(WriteState.PENDING, Reason.FOLLOWING, model=self._model)
        outcome = dict(owed) | dict.fromkeys(wanted, following)

        async def note_all(connection: Any) -> Mapping[bytes, VectorWrite]:
            await self._note_owed(connection, records, outcome, due_seconds=_FOLLOW_SECONDS)
            return outcome

        stored = await self._archive.store(records, note_all)
        if not wanted:
            return stored
        # What happens from here on is about vectors alone: the rows are committed, and so is what is owed.
        try:
            await self._breaker.attempt(lambda: self._follow(wanted))
        except TransientError as error:
            return _with_vectors(records, stored, dict.fromkeys(wanted, self._unavailable(error)))
        paid = [r for r in records if r.text is not None and r.text.hash in wanted]
        try:
            await self._outbox.pay(paid)
        except TransientError:
            return stored  # the backfill will find the vectors there
        return _with_vectors(records, stored, dict.fromkeys(wanted, self._written))

    async def _follow(self, vectors: Mapping[bytes, Vector]) -> None:
        # A server that has fallen silent: its connection takes half a minute to be given up.
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._vectors.insert(vectors)
        except TimeoutError as error:
            raise TransientError(f"the vectors' server gave no answer in {_PATIENCE_SECONDS:g} s") from error

    async def _note_owed(
        self,
        connection: Any,
        records: Sequence[Record],
        outcome: Mapping[bytes, VectorWrite],
        *,
        due_seconds: float,
    ) -> None:
        owed = {key: write for key, write in outcome.items() if write.state is not WriteState.WRITTEN}
        late = [r for r in records if r.text is not None and r.text.hash in owed]
        if late:
            errors = {key: write.message for key, write in owed.items()}
            refused = {key for key, write in owed.items() if write.state is WriteState.FAILED}
            await self._outbox.add(connection, late, errors, due_seconds=due_seconds, refused=refused)

    def _unavailable(self, error: TransientError) -> VectorWrite:
        return VectorWrite(WriteState.PENDING, Reason.VECTOR_STORE_UNAVAILABLE, str(error), self._model)


def _with_vectors(
    records: Sequence[Record], stored: Sequence[StoredRecord], vectors: Mapping[bytes, VectorWrite]
) -> list[StoredRecord]:
    return [
        replace(row, vector=vectors[r.text.hash]) if r.text is not None and r.text.hash in vectors else row
        for r, row in zip(records, stored, strict=True)
    ]
