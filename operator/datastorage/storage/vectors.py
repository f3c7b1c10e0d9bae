"""The vectors of one embedding model: one per distinct text, found by the text's hash."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import numpy as np
import pgvector

from datastorage.errors import (
    ConfigurationError,
    RecordRefusedError,
    SchemaVersionError,
    TransientError,
    WorkRefusedError,
)
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.errortranslation import one_line, translated_errors
from datastorage.storage.connection.sessions import NoVectorsError, Session, transaction
from datastorage.storage.schema import VECTORS

_FIND_MODEL: Final = """
    SELECT id FROM datastorage.embedding_models WHERE provider = $1 AND name = $2 AND dimensions = $3
"""
_ENSURE_MODEL: Final = "SELECT datastorage.ensure_embedding_model($1, $2, $3)"
# The number of a model is in the names of its tables, for which a parameter can't be used. It comes from the
# function above and is formatted as an integer, never as text. The schema of pgvector comes from the server,
# quoted. Whatever the plan, rows are inserted in the order of the hashes, so that two transactions never wait
# for each other. The result is 0 if the number is not that of our model: after a backup was restored it may
# belong to another one. With $3 false nothing is written, but the statement needs everything that a write
# needs.
_INSERT: Final = """
    WITH model AS MATERIALIZED (
        SELECT open_part FROM datastorage.embedding_models
        WHERE id = {id:d} AND provider = $4 AND name = $5 AND dimensions = $6),
    written AS (
        INSERT INTO datastorage.embeddings_{id:d} (part, text_hash, embedding)
        SELECT model.open_part, given.text_hash, given.embedding
        FROM model, unnest($1::bytea[], $2::{pgvector}.vector[]) AS given (text_hash, embedding)
        WHERE $3 AND NOT EXISTS (
            SELECT FROM datastorage.embeddings_{id:d} AS e WHERE e.text_hash = given.text_hash)
        ORDER BY given.text_hash
        ON CONFLICT DO NOTHING)
    SELECT count(*) FROM model
"""
_EXISTING: Final = """
    SELECT DISTINCT text_hash FROM datastorage.embeddings_{id:d} WHERE text_hash = ANY($1::bytea[])
        AND EXISTS (SELECT FROM datastorage.embedding_models
            WHERE id = {id:d} AND provider = $2 AND name = $3 AND dimensions = $4)
"""
_SEAL: Final = "SELECT datastorage.seal_embeddings($1, $2)"
_INDEX: Final = "SELECT datastorage.index_embeddings($1, $2, $3, $4)"
_SEALED: Final = """
    SELECT count(*) FROM datastorage.embedding_parts WHERE model_id = $1 AND state = 'sealed'
"""
# The memory of a vector in addition to its numbers while its index is built: its neighbours on all layers,
# and overhead. The database function that merges partitions uses the same number.
_INDEXED_BYTES: Final = 700
# An exact search of this many vectors takes about 12 ms, and indexing them a few seconds.
_FULL_ROWS: Final = 20_000
# The number of partitions that one merge joins. Each merge builds an index again, and each partition is
# searched by itself. With six, a vector is indexed twice until there are a hundred thousand, and up to five
# small partitions are searched in addition to the large ones.
_MERGED_PARTITIONS: Final = 6
# A write of vectors that takes longer is waiting for a lock. That must not delay the rows.
_WRITE_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 2.0
_INDEX_SECONDS: Final = 3600.0


class VectorTables:
    """Writes the vectors of one model. Every method may be repeated without harm.

    All methods raise TransientError when the vectors can't be reached or written.
    """

    def __init__(
        self, database: Database, model: EmbeddingModel, *, write_seconds: float = _WRITE_SECONDS
    ) -> None:
        """``database`` is that of the vectors of ``model``.

        A write of vectors that takes longer than ``write_seconds`` fails: it is waiting for a lock, and must
        not delay the rows.
        """
        self._database = database
        self._model = model
        self._write_seconds = write_seconds
        self._identity = (model.provider, model.name, model.dimensions)
        self._id: int | None = None
        self._known_generation = database.generation
        self._making = asyncio.Lock()

    @property
    def is_known(self) -> bool:
        """Whether the number of the model is known, so that a write needs no other connection for it."""
        return self._id is not None

    async def known_id(self) -> int | None:
        """Return the number of the model, or None if it has no tables yet. Changes nothing."""
        number = self._known()
        if number is None:
            async with self._connection() as connection:
                number = await connection.fetchval(_FIND_MODEL, *self._identity, timeout=self._write_seconds)
            self._id = number
        return number

    async def model_id(self) -> int:
        """Return the number of the model, after creating its tables if they are missing."""
        # A concurrent call may reset the cached number at any await, so this call returns its own copy.
        number = self._known()
        if number is None:
            # The tables are created on a connection of their own, never in a transaction of rows.
            async with self._making, self._connection() as connection:
                number = int(
                    await connection.fetchval(_ENSURE_MODEL, *self._identity, timeout=self._write_seconds)
                )
            self._id = number
        return number

    async def insert(self, vectors: Mapping[bytes, Vector]) -> None:
        """Write vectors, by the hashes of their texts. A vector that exists already stays."""
        number = await self.model_id()
        async with self._connection() as connection:
            await self._insert(connection, number, vectors)

    async def insert_in(self, connection: Session, vectors: Mapping[bytes, Vector]) -> None:
        """Write vectors within a transaction. If that raises TransientError, the transaction stays usable."""
        number = await self.model_id()
        try:
            with translated_errors():
                async with transaction(connection):  # a savepoint
                    await self._insert(connection, number, vectors)
        except NoVectorsError:
            self._forget_schema()
            raise
        except (TransientError, RecordRefusedError) as error:
            cause = error.__cause__
            if cause is None:
                raise
            if not isinstance(cause, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError):
                self._forget_schema()
            outage = not isinstance(error, WorkRefusedError | RecordRefusedError)
            kind = TransientError if outage else WorkRefusedError
            raise kind(f"the vectors' tables: {one_line(cause)}") from cause

    async def existing(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Return the hashes that have a vector."""
        number = await self.known_id()
        if number is None:
            return set()
        async with self._connection() as connection:
            rows = await connection.fetch(_EXISTING.format(id=number), list(hashes), *self._identity)
        return {row["text_hash"] for row in rows}

    async def probe(self) -> None:
        """Check that a write would succeed. Raises the errors of a write."""
        number = await self.model_id()
        # The probe sends a vector, because the connection may still know the type of a pgvector that was
        # dropped and installed again.
        vector = np.ones(self._model.dimensions, np.float32)
        async with self._connection() as connection:
            await self._insert(connection, number, {b"": vector}, dry_run=True, seconds=_PROBE_SECONDS)

    def max_rows(self, memory_mib: int) -> int:
        """Return the largest number of vectors whose index can be built within this much memory."""
        return memory_mib * 2**20 // (self._model.dimensions * 4 + _INDEXED_BYTES)

    async def seal(self, *, full_rows: int = _FULL_ROWS) -> bool:
        """Seal the open partition if it has ``full_rows``, and open a new one; return whether it did."""
        number = await self.model_id()
        async with self._connection() as connection:
            return bool(await connection.fetchval(_SEAL, number, full_rows))

    async def sealed(self) -> int:
        """Return the number of partitions that wait for their index."""
        number = await self.known_id()
        async with self._connection() as connection:
            return int(await connection.fetchval(_SEALED, number))

    async def index(
        self,
        *,
        memory_mib: int,
        full_rows: int = _FULL_ROWS,
        grace_seconds: float = 2 * _WRITE_SECONDS,
        merged_partitions: int = _MERGED_PARTITIONS,
    ) -> bool:
        """Seal a full partition, and do one step of indexing; return whether there was anything to do.

        A step takes from a second to minutes. ``memory_mib`` is the memory that the server may use for it. A
        partition is indexed no earlier than ``grace_seconds`` after it was sealed: by then, every write that
        began before has ended. A merge joins ``merged_partitions`` of one level to one of the next level.
        """
        sealed, number = await self.seal(full_rows=full_rows), await self.model_id()
        async with self._connection() as connection:
            indexed = await connection.fetchval(
                _INDEX, number, memory_mib, grace_seconds, merged_partitions, timeout=_INDEX_SECONDS
            )
        return bool(sealed or indexed)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Session]:
        try:
            async with self._database.connection(VECTORS) as connection:
                yield connection
        except SchemaVersionError:
            self._forget_schema()
            raise
        except ConfigurationError as error:
            # An untrusted certificate of the vectors' server, for example, must not stop the storing of
            # records.
            self._forget_schema()
            raise TransientError(str(error)) from error
        except RecordRefusedError as error:
            self._forget_schema()
            # No record may be rejected because of a vector.
            raise WorkRefusedError(f"the vectors' tables: {error}") from error

    def _known(self) -> int | None:
        if self._known_generation != self._database.generation:  # it may be another database now
            self._known_generation = self._database.generation
            self._id = None
        return self._id

    def _forget_schema(self) -> None:
        """Forget the model's number and replace the connections, because the schema may be another one now.

        After pgvector was installed again, old connections still know its former type.
        """
        self._id = None
        self._database.expire_connections()

    async def _insert(
        self,
        connection: Session,
        number: int,
        vectors: Mapping[bytes, Vector],
        *,
        dry_run: bool = False,
        seconds: float | None = None,
    ) -> None:
        hashes = list(vectors)
        models = await connection.fetchval(
            _INSERT.format(id=number, pgvector=connection.vector_schema),
            hashes,
            [pgvector.Vector(vectors[key]) for key in hashes],
            not dry_run,
            *self._identity,
            timeout=self._write_seconds if seconds is None else seconds,
        )
        if not models:
            self._id = None
            raise TransientError("the vectors' tables: the model has another number now")
