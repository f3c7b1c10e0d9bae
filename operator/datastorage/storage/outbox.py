"""The pending vectors: each waits here until it is written, refused or dropped."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from datastorage.errors import TransientError
from datastorage.records.record import Record
from datastorage.records.vectorwrite import OutboxState, VectorWrite, WriteState
from datastorage.resources.reading.fields import storable
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session, transaction

# Stored errors are for people, who need only the beginning.
_MAX_ERROR_CHARACTERS: Final = 500
# The time limit of a statement that may change many thousands of rows.
_BULK_SECONDS: Final = 120.0
# The duration of a claim. If an embedder takes longer for a batch, at worst another replica makes the same
# vectors.
_CLAIM_SECONDS: Final = 30.0
# A shutdown waits no longer than this for a silent server.
_RELEASE_SECONDS: Final = 1.0
_NOT_WRITTEN: Final = frozenset({WriteState.PENDING, WriteState.FAILED})

_ADD: Final = """
    INSERT INTO datastorage.vector_outbox (
        uid, generation, created_at, table_name, namespace, name, text_hash, last_error, state, attempts,
        due_at)
    SELECT uid, generation, created_at, table_name, namespace, name, text_hash, nullif(error, ''), state,
        (state = 'failed')::integer, now() + make_interval(secs => $10)
    FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bytea[],
        $8::text[], $9::text[])
        AS pending (uid, generation, created_at, table_name, namespace, name, text_hash, error, state)
    ON CONFLICT DO NOTHING
"""
# Other workers skip the claimed rows, which are due again when the claim expires. No transaction stays open
# meanwhile: an embedder may take long, and the server may end an idle transaction.
_CLAIM: Final = """
    WITH due AS (
        SELECT uid, generation, text_hash, due_at FROM datastorage.vector_outbox
        WHERE state = 'pending' AND due_at <= now()
        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE datastorage.vector_outbox AS o SET due_at = clock_timestamp() + make_interval(secs => $2)
        FROM due AS d WHERE o.uid = d.uid AND o.generation = d.generation AND o.text_hash = d.text_hash
        RETURNING o.uid, o.generation, o.text_hash, o.attempts, d.due_at)
    SELECT c.uid, c.generation, c.text_hash, c.attempts, c.due_at, t.text
    FROM claimed AS c JOIN datastorage.embedding_texts AS t USING (text_hash) ORDER BY c.due_at
"""
_RELEASE: Final = """
    UPDATE datastorage.vector_outbox AS o SET due_at = k.due_at
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[])
        AS k (uid, generation, text_hash, due_at)
    WHERE o.uid = k.uid AND o.generation = k.generation AND o.text_hash = k.text_hash AND o.state = 'pending'
"""
_REMOVE: Final = """
    DELETE FROM datastorage.vector_outbox o
    USING unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS k (uid, generation, text_hash)
    WHERE o.uid = k.uid AND o.generation = k.generation AND o.text_hash = k.text_hash
"""
_REFUSE: Final = """
    UPDATE datastorage.vector_outbox o
    SET state = 'failed', attempts = attempts + 1, last_error = k.error
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::text[]) AS k (uid, generation, text_hash, error)
    WHERE o.uid = k.uid AND o.generation = k.generation AND o.text_hash = k.text_hash AND o.state = 'pending'
"""
_DELAY: Final = """
    UPDATE datastorage.vector_outbox o
    SET attempts = attempts + 1, last_error = k.error,
        due_at = now() + make_interval(secs => CASE WHEN k.alone THEN least(2 ^ least(attempts, 20), 300)
            ELSE least(attempts, 5) END)
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::text[], $5::boolean[])
        AS k (uid, generation, text_hash, error, alone)
    WHERE o.uid = k.uid AND o.generation = k.generation AND o.text_hash = k.text_hash AND o.state = 'pending'
"""
_DEPTHS: Final = """
    SELECT state, count(*) AS depth,
        extract(epoch FROM now() - min(owed_since))::double precision AS oldest_seconds
    FROM datastorage.vector_outbox GROUP BY state
"""
_LIST: Final = """
    SELECT uid, generation, table_name, namespace, name, state, owed_since AS pending_since, attempts,
        last_error
    FROM datastorage.vector_outbox
    WHERE ($1::text IS NULL OR state = $1) AND ($2::uuid IS NULL OR uid = $2)
    ORDER BY owed_since, uid, generation LIMIT $3
"""
_ERRORS: Final = """
    SELECT coalesce(last_error, '') AS error, count(*) AS count FROM datastorage.vector_outbox
    WHERE state = $1 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $2
"""
_RETRY: Final = """
    UPDATE datastorage.vector_outbox SET state = 'pending', due_at = now()
    WHERE state <> 'pending' AND ($1::text IS NULL OR state = $1) AND ($2::uuid IS NULL OR uid = $2)
"""
_DROP: Final = """
    UPDATE datastorage.vector_outbox SET state = 'dropped', last_error = $3
    WHERE state <> 'dropped' AND ($1::text IS NULL OR state = $1) AND ($2::uuid IS NULL OR uid = $2)
"""


@dataclass(frozen=True, slots=True)
class PendingVector:
    """One claimed row. ``attempts`` counts the earlier tries of the backfill."""

    uid: str
    generation: int
    text_hash: bytes
    text: str
    attempts: int
    due_at: datetime | None = field(default=None, compare=False)
    """The time at which it was due before it was claimed."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One row, as the command line shows it."""

    uid: str
    generation: int
    table: str
    namespace: str
    name: str
    state: OutboxState
    pending_since: datetime
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """The number of rows in a state, and the age of the oldest in seconds."""

    depth: int = 0
    oldest_seconds: float = 0.0


class Claim:
    """Pending vectors that no other worker touches until the claim ends, and the results to commit then."""

    def __init__(self, rows: Sequence[PendingVector]) -> None:
        self.rows = rows
        self.removed: list[PendingVector] = []
        self.refused: list[tuple[PendingVector, str]] = []
        self.delayed: list[tuple[PendingVector, str, bool]] = []

    def remove(self, rows: Iterable[PendingVector]) -> None:
        """Note rows to remove because their vectors are committed."""
        self.removed.extend(rows)

    def refuse(self, rows: Iterable[PendingVector], reasons: Mapping[bytes, str]) -> None:
        """Note that no vector can be made of the texts, with the reasons by text hash."""
        self.refused.extend((row, reasons[row.text_hash]) for row in rows)

    def delay(self, rows: Iterable[PendingVector], error: str, *, alone: bool = False) -> None:
        """Note rows whose vectors could not be written now, with the reason. They are due again in seconds.

        ``alone`` means that other vectors can be written meanwhile: then the pauses of these rows double.
        """
        self.delayed.extend((row, error, alone) for row in rows)


class Outbox:
    """The table of pending vectors. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database, *, claim_seconds: float = _CLAIM_SECONDS) -> None:
        """A claim expires after ``claim_seconds``, so that rows are due again if the process has ended."""
        self._database = database
        self._claim_seconds = claim_seconds

    @staticmethod
    async def add(
        connection: Session,
        records: Sequence[Record],
        writes: Mapping[bytes, VectorWrite],
        *,
        due_seconds: float,
    ) -> None:
        """Add the vectors that are not written, on the connection of the rows' transaction.

        ``writes`` holds the state of each text's vector, by the hash of the text. Vectors that are pending
        are due after ``due_seconds``. A repeat changes nothing.
        """
        rows = [
            (
                record.key.uid, record.key.generation, record.key.created_at, record.table.value,
                record.namespace, record.name, record.text.hash, _readable(write.message),
                OutboxState.FAILED if write.state is WriteState.FAILED else OutboxState.PENDING,
            )
            for record in records
            if record.text is not None
            and record.text.text
            and (write := writes.get(record.text.hash)) is not None
            and write.state in _NOT_WRITTEN
        ]  # fmt: skip
        if rows:
            await connection.execute(_ADD, *map(list, zip(*rows, strict=True)), due_seconds)

    @asynccontextmanager
    async def claim(self, limit: int) -> AsyncIterator[Claim]:
        """Claim up to ``limit`` due rows.

        If the block succeeds, the results noted in the claim are committed. Rows without a result are due as
        before. If the process ends, they are due when the claim expires.
        """
        async with self._database.connection() as connection:
            found = await connection.fetch(_CLAIM, limit, self._claim_seconds)
        claim = Claim(
            [
                PendingVector(
                    str(row["uid"]), row["generation"], row["text_hash"], row["text"], row["attempts"],
                    row["due_at"],
                )
                for row in found
            ]
        )  # fmt: skip
        try:
            yield claim
            if claim.rows:
                await self._end(claim)
        except BaseException:
            with suppress(TransientError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS), self._database.connection() as connection:
                    await _release(connection, claim.rows)
            raise

    async def _end(self, claim: Claim) -> None:
        async with self._database.connection() as connection, transaction(connection):
            await connection.execute(_REMOVE, *_keys(claim.removed))
            refused = [row for row, _ in claim.refused]
            errors = [_readable(error) for _, error in claim.refused]
            await connection.execute(_REFUSE, *_keys(refused), errors)
            await connection.execute(
                _DELAY, *_keys(row for row, _, _ in claim.delayed),
                [_readable(error) for _, error, _ in claim.delayed], [alone for _, _, alone in claim.delayed],
            )  # fmt: skip
            noted = {id(row) for row in (*claim.removed, *refused, *(row for row, _, _ in claim.delayed))}
            await _release(connection, [row for row in claim.rows if id(row) not in noted])

    async def remove(self, records: Iterable[Record]) -> None:
        """Remove the rows of records whose vectors are committed."""
        keys = [(r.key.uid, r.key.generation, r.text.hash) for r in records if r.text is not None]
        if keys:
            async with self._database.connection() as connection:
                await connection.execute(_REMOVE, *map(list, zip(*keys, strict=True)))

    async def depths(self) -> dict[OutboxState, OutboxDepth]:
        """Return the depth of each state."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_DEPTHS)
        found = {OutboxState(r["state"]): OutboxDepth(r["depth"], r["oldest_seconds"]) for r in rows}
        return {state: found.get(state, OutboxDepth()) for state in OutboxState}

    async def list(self, *, state: OutboxState | None, uid: str | None, limit: int) -> list[OutboxRow]:
        """Return rows, beginning with those that were added first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_LIST, state, uid, limit)
        return [
            OutboxRow(
                str(r["uid"]), r["generation"], r["table_name"], r["namespace"], r["name"],
                OutboxState(r["state"]), r["pending_since"], r["attempts"], r["last_error"],
            )
            for r in rows
        ]  # fmt: skip

    async def errors(self, state: OutboxState, limit: int) -> dict[str, int]:
        """Return the reasons of the rows in a state with their counts, the most frequent first."""
        async with self._database.connection() as connection:
            return {r["error"]: r["count"] for r in await connection.fetch(_ERRORS, state, limit)}

    async def retry(self, *, state: OutboxState | None, uid: str | None) -> int:
        """Make rows that failed or were dropped pending again; return how many."""
        async with self._database.connection() as connection:
            return _count(await connection.execute(_RETRY, state, uid, timeout=_BULK_SECONDS))

    async def drop(self, *, state: OutboxState | None, uid: str | None, reason: str) -> int:
        """Give rows up, and keep the reason with them; return how many."""
        async with self._database.connection() as connection:
            tag = await connection.execute(_DROP, state, uid, _readable(reason), timeout=_BULK_SECONDS)
        return _count(tag)


def _keys(rows: Iterable[PendingVector]) -> tuple[list[str], list[int], list[bytes]]:
    chosen = list(rows)
    return (
        [row.uid for row in chosen],
        [row.generation for row in chosen],
        [row.text_hash for row in chosen],
    )


def _readable(error: str) -> str:
    # Errors of other programs may contain characters that no column can hold, which must not fail the other
    # rows.
    return storable(error[:_MAX_ERROR_CHARACTERS])


async def _release(connection: Session, rows: Sequence[PendingVector]) -> None:
    if rows:
        await connection.execute(_RELEASE, *_keys(rows), [row.due_at for row in rows])


def _count(command_tag: str) -> int:
    return int(command_tag.rpartition(" ")[2])
