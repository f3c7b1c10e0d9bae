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
from datastorage.storage.connection.sessions import NoVectorsError, Session, transaction
from datastorage.storage.connection.translation import one_line, translated_errors

FIND_MODEL: Final = """
    SELECT id FROM datastorage.embedding_models WHERE provider = $1 AND name = $2 AND dimensions = $3
"""
_ENSURE_MODEL: Final = "SELECT datastorage.ensure_embedding_model($1, $2, $3)"
# The number of a model is part of its tables' names, which no parameter can be. It comes from the function
# above and is formatted as an integer, never as text. The schema of pgvector comes from the server, quoted.
# In the order of the hashes, with every plan, so that two transactions never wait for each other. It
# answers 0 when the number is not our model's: after a restored backup it may be another's. With $3 false
# nothing is written, and everything that a write needs is needed all the same.
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
# A vector takes this beside its numbers while its index is built: its neighbours on all layers, and overhead.
# The function that merges partitions reckons with the same.
_INDEXED_BYTES: Final = 700
# This many vectors are searched exactly in about 12 ms, and indexed in a few seconds.
_FULL_PART_ROWS: Final = 20_000
# Each merge builds an index again, and each partition is searched by itself. With six, a vector is indexed
# twice until a hundred thousand are together, and up to five small partitions are searched beside the large.
_MERGED_PARTS: Final = 6
# A vector's write that takes longer is waiting for a lock, and the rows beside it must not.
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
        """Take the database that has the vectors' schema, and the model of the vectors.

        A write of vectors that takes longer than ``write_seconds`` fails: it waits for a lock, and the rows
        beside it must not.
        """
        self._database = database
        self._model = model
        self._write_seconds = write_seconds
        self._identity = (model.provider, model.name, model.dimensions)
        self._id: int | None = None
        self._known_in = database.generation
        self._making = asyncio.Lock()

    @property
    def is_known(self) -> bool:
        """Whether the number of the model is known, so that a write needs no other connection for it."""
        return self._id is not None

    async def known_id(self) -> int | None:
        """Return the number of the model, or None where nothing of it was ever written. Changes nothing."""
        number = self._known()
        if number is None:
            async with self._connection() as connection:
                number = await connection.fetchval(FIND_MODEL, *self._identity, timeout=self._write_seconds)
            self._id = number
        return number

    async def model_id(self) -> int:
        """Return the number of the model; its tables are there then."""
        # Another user may come to doubt it at any await: what is returned is this call's own.
        number = self._known()
        if number is None:
            # On a connection of its own: a transaction of rows must not carry the making of tables.
            async with self._making, self._connection() as connection:
                number = int(
                    await connection.fetchval(_ENSURE_MODEL, *self._identity, timeout=self._write_seconds)
                )
            self._id = number
        return number

    async def insert(self, vectors: Mapping[bytes, Vector]) -> None:
        """Write vectors by the hashes of their texts. One that is there already stays."""
        number = await self.model_id()
        async with self._connection() as connection:
            await self._insert(connection, number, vectors)

    async def insert_in(self, connection: Session, vectors: Mapping[bytes, Vector]) -> None:
        """Write vectors within a transaction, which goes on unharmed when this fails (TransientError)."""
        number = await self.model_id()
        try:
            with translated_errors():
                async with transaction(connection):  # a savepoint
                    await self._insert(connection, number, vectors)
        except NoVectorsError:
            self._doubt()
            raise
        except (TransientError, RecordRefusedError) as error:
            cause = error.__cause__
            if cause is None:
                raise
            if not isinstance(cause, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError):
                self._doubt()
            outage = not isinstance(error, WorkRefusedError | RecordRefusedError)
            kind = TransientError if outage else WorkRefusedError
            raise kind(f"the vectors' tables: {one_line(cause)}") from cause

    async def existing(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Return those of the hashes that have a vector."""
        number = await self.known_id()
        if number is None:
            return set()
        async with self._connection() as connection:
            rows = await connection.fetch(_EXISTING.format(id=number), list(hashes), *self._identity)
        return {row["text_hash"] for row in rows}

    async def probe(self) -> None:
        """Return when a write would succeed."""
        number = await self.model_id()
        # With a vector: a connection may know a type of pgvector that was dropped and made again since.
        vector = np.ones(self._model.dimensions, np.float32)
        async with self._connection() as connection:
            await self._insert(connection, number, {b"": vector}, really=False, seconds=_PROBE_SECONDS)

    def most_rows(self, memory_mib: int) -> int:
        """Return how many vectors there may be in an index that is built within so much memory."""
        return memory_mib * 2**20 // (self._model.dimensions * 4 + _INDEXED_BYTES)

    async def seal(self, *, full_rows: int = _FULL_PART_ROWS) -> bool:
        """Open a new partition when the open one has ``full_rows``; return whether it did."""
        number = await self.model_id()
        async with self._connection() as connection:
            return bool(await connection.fetchval(_SEAL, number, full_rows))

    async def sealed(self) -> int:
        """Return how many parts wait for their index."""
        number = await self.known_id()
        async with self._connection() as connection:
            return int(await connection.fetchval(_SEALED, number))

    async def index(
        self,
        *,
        memory_mib: int,
        full_rows: int = _FULL_PART_ROWS,
        grace_seconds: float = 2 * _WRITE_SECONDS,
        merged_parts: int = _MERGED_PARTS,
    ) -> bool:
        """Seal a full partition, and do one step of indexing; return whether there was anything to do.

        A step takes from a second to minutes. ``memory_mib`` is what the server may use for it. A partition
        is indexed no earlier than ``grace_seconds`` after it was sealed, when every write that began before
        has ended. ``merged_parts`` of a level become one of the next.
        """
        sealed, number = await self.seal(full_rows=full_rows), await self.model_id()
        async with self._connection() as connection:
            indexed = await connection.fetchval(
                _INDEX, number, memory_mib, grace_seconds, merged_parts, timeout=_INDEX_SECONDS
            )
        return bool(sealed or indexed)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Session]:
        try:
            async with self._database.connection() as connection:
                yield connection
        except SchemaVersionError:
            self._doubt()
            raise
        except ConfigurationError as error:
            # A certificate that is not trusted, for example. That is no reason to store no records meanwhile.
            self._doubt()
            raise TransientError(str(error)) from error
        except RecordRefusedError as error:
            self._doubt()
            # Whatever is wrong with a vector, no record is to blame for it, and none may be rejected for it.
            raise WorkRefusedError(f"the vectors' tables: {error}") from error

    def _known(self) -> int | None:
        if self._known_in != self._database.generation:  # it may be another database by now
            self._known_in = self._database.generation
            self._id = None
        return self._id

    def _doubt(self) -> None:
        """Believe nothing any more of what may have been another schema's: it is looked up again.

        Connections among it: where pgvector was installed again, they know the type that was before.
        """
        self._id = None
        self._database.expire_connections()

    async def _insert(
        self,
        connection: Session,
        number: int,
        vectors: Mapping[bytes, Vector],
        *,
        really: bool = True,
        seconds: float | None = None,
    ) -> None:
        hashes = list(vectors)
        models = await connection.fetchval(
            _INSERT.format(id=number, pgvector=connection.vector_schema),
            hashes,
            [pgvector.Vector(vectors[key]) for key in hashes],
            really,
            *self._identity,
            timeout=self._write_seconds if seconds is None else seconds,
        )
        if not models:
            self._id = None
            raise TransientError("the vectors' tables: the model is not where it was")
