"""Search by meaning: finds the records that meet criteria and whose texts are nearest to a vector."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pgvector

from datastorage.errors import RecordRefusedError, TransientError
from datastorage.records.vector import EmbeddingModel, Vector
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, ShapedStatement, count_up_to, with_conditions
from datastorage.storage.matches import Background, Match, Near, Similarities
from datastorage.storage.places import Place, place_of
from datastorage.storage.readonly import ONE_PLAN, plan_for, reading, set_further
from datastorage.storage.schema import VECTORS

_COUNT: Final = ShapedStatement(count_up_to("$1"))
# The newest records of a text, $1 at most. The statement around it provides "near", which has the text_hash.
# Of several in one second, the same are taken wherever PostgreSQL has put them.
_THEIR_RECORDS: Final = """
        (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash
        FROM datastorage.audit_records AS r
        WHERE r.text_hash = near.text_hash AND {of_audit_records}
        ORDER BY r.created_at DESC, r.uid, r.generation DESC, r.spec_hash LIMIT $1)
        UNION ALL
        (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash
        FROM datastorage.action_traces AS r
        WHERE r.text_hash = near.text_hash AND {of_action_traces} AND {newest}
        ORDER BY r.created_at DESC, r.uid, r.generation DESC, r.spec_hash LIMIT $1)
        ORDER BY created_at DESC, uid, generation DESC, spec_hash LIMIT $1"""


def _with_records(sql: str) -> str:
    return sql.replace("{their_records}", _THEIR_RECORDS)


# Takes the nearest vectors, one by one, until enough records are found. A partition with an index is walked,
# one without is sorted. The limit is written into the statement, not passed, because the plan depends on it.
_WALK: Final = with_conditions(
    _with_records("""
    SELECT near.text_hash, near.distance, found.* FROM (
        SELECT text_hash, embedding OPERATOR({pgvector}.<=>) $3 AS distance
        FROM datastorage.embeddings_{id:d}
        ORDER BY embedding OPERATOR({pgvector}.<=>) $3 LIMIT {texts:d}) AS near
    CROSS JOIN LATERAL ({their_records}) AS found
    LIMIT $2
""")
)
# A number that a text is looked up by: texts with the same one are rare, and do no harm.
_NUMBER: Final = (
    "(get_byte(text_hash, 0) << 24 | get_byte(text_hash, 1) << 16 | get_byte(text_hash, 2) << 8 "
    "| get_byte(text_hash, 3))"
)


def _exact(bound: str) -> ShapedStatement:
    """Return the statement that computes the distances of the texts of all rows that ``bound`` leaves.

    ``bound`` is an ORDER BY with a LIMIT for the rows of each table, or nothing. The former generations of an
    ActionTrace count towards it, though they are not found.

    All vectors are looked up in one scan of an index of each part, which reads each of its pages once:
    looking up ten thousand texts one by one takes half as long again, and an index of hashes twice as long as
    one of numbers. The array is in the order of the index, which saves sorting it for each part. Then the
    nearest texts are taken, one by one, until enough records are found: only for these it is checked whether
    they are the records' texts, and whether an ActionTrace is the newest generation.
    """
    return ShapedStatement(
        _with_records(f"""
    WITH distances AS MATERIALIZED (
        SELECT text_hash, embedding OPERATOR({{pgvector}}.<=>) $3 AS distance
        FROM datastorage.embeddings_{{id:d}}
        WHERE {_NUMBER} = ANY (ARRAY(
            SELECT DISTINCT {_NUMBER} FROM (
                (SELECT r.text_hash FROM datastorage.audit_records AS r
                WHERE {{of_audit_records}} AND r.text_hash IS NOT NULL {bound})
                UNION ALL
                (SELECT r.text_hash FROM datastorage.action_traces AS r
                WHERE {{of_action_traces}} AND r.text_hash IS NOT NULL {bound})) AS texts
            ORDER BY 1))),
    near AS (SELECT * FROM distances ORDER BY distance, text_hash)
    SELECT near.text_hash, near.distance, found.*
    FROM near CROSS JOIN LATERAL ({{their_records}}) AS found
    LIMIT $2
""")  # noqa: S608  # expressions of our own
    )


# For criteria that leave few records: which of them are the newest does not matter.
_EXACT_OF_FEW: Final = _exact("")
_EXACT_OF_NEWEST: Final = _exact("ORDER BY r.created_at DESC LIMIT $4")
# The same in two steps, for vectors on another server: these are the texts of the newest records.
_HASHES: Final = ShapedStatement("""
    SELECT DISTINCT text_hash FROM (
        (SELECT r.text_hash FROM datastorage.audit_records AS r
        WHERE {of_audit_records} AND r.text_hash IS NOT NULL ORDER BY r.created_at DESC LIMIT $1)
        UNION ALL
        (SELECT r.text_hash FROM datastorage.action_traces AS r
        WHERE {of_action_traces} AND r.text_hash IS NOT NULL AND {newest}
        ORDER BY r.created_at DESC LIMIT $1)) AS rows
""")
_NEAREST_OF: Final = """
    SELECT given.text_hash, distance FROM unnest($1::bytea[]) AS given (text_hash) CROSS JOIN LATERAL (
        SELECT embedding OPERATOR({pgvector}.<=>) $2 AS distance
        FROM datastorage.embeddings_{id:d} AS e WHERE e.text_hash = given.text_hash LIMIT 1) AS known
    ORDER BY distance LIMIT $3
"""
_NEAREST: Final = """
    SELECT text_hash, embedding OPERATOR({pgvector}.<=>) $1 AS distance FROM datastorage.embeddings_{id:d}
    ORDER BY embedding OPERATOR({pgvector}.<=>) $1 LIMIT $2
"""
_RECORDS_OF: Final = with_conditions(
    _with_records("""
    SELECT near.text_hash, near.distance, found.*
    FROM unnest($3::bytea[], $4::float8[]) AS near (text_hash, distance)
    CROSS JOIN LATERAL ({their_records}) AS found
    ORDER BY distance, created_at DESC, uid, generation DESC, spec_hash LIMIT $2
""")
)
# The similarities of texts that are as good as picked at random: those with the lowest hashes.
_BACKGROUND: Final = """
    SELECT count(*) AS texts, avg(similarity) AS mean, stddev_samp(similarity) AS deviation FROM (
        SELECT 1 - (embedding OPERATOR({pgvector}.<=>) $1) AS similarity
        FROM datastorage.embeddings_{id:d} ORDER BY text_hash LIMIT {texts:d}) AS some_texts
"""
# The same of given texts, which are in the order of their hashes.
_BACKGROUND_OF: Final = """
    SELECT count(*) AS texts, avg(similarity) AS mean, stddev_samp(similarity) AS deviation FROM (
        SELECT 1 - distance AS similarity FROM unnest($2::bytea[]) AS given (text_hash) CROSS JOIN LATERAL (
            SELECT embedding OPERATOR({pgvector}.<=>) $1 AS distance
            FROM datastorage.embeddings_{id:d} AS e WHERE e.text_hash = given.text_hash LIMIT 1) AS known
        LIMIT {texts:d}) AS some_texts
"""
# The texts that stand for all others, in _BACKGROUND.
_SAMPLE: Final = 200
# The texts of a namespace are those of this many of its newest records of each kind. Reading 2,000 takes
# three times as long, 18 ms in an archive of a million.
_SAMPLED_RECORDS: Final = 500
# The name of the table with the vectors has the number of their model.
_FIND_TABLE: Final = """
    SELECT m.id, count(p.part) AS indexes, coalesce(max(p.row_count), 0) AS largest
    FROM datastorage.embedding_models AS m
        LEFT JOIN datastorage.embedding_parts AS p ON p.model_id = m.id AND p.state = 'indexed'
    WHERE m.provider = $1 AND m.name = $2 AND m.dimensions = $3 GROUP BY m.id
"""
# The candidates that an index keeps while it is walked: a thousand in all indexes together, within the bounds
# for each. The more there are, the longer a walk takes. Of the nearest ten among a million vectors, 100 in
# each of ten indexes find 95 %. In a single index of 120,000 they find 93 %, and 200 find 97 % (decision 9).
_CANDIDATES: Final = 1_000
_FEWEST_CANDIDATES: Final = 100
_MOST_CANDIDATES: Final = 200
# Six sealed parts are merged into one. Each has 20,000 vectors and those that came until it was sealed, so
# that merged ones have some more than 120,000. Fewer candidates in larger ones were not measured.
_LARGE_INDEX: Final = 200_000
BY_KEYS: Final = "enable_seqscan = off"
"""For looking up many vectors at once. PostgreSQL expects ten, so it would read all rows of a small table and
compare each with thousands of hashes; and with one plan, it would go on so when the table has grown."""


def walking(indexes: int, largest: int) -> tuple[str, ...]:
    """Return the settings for walking so many indexes, the largest of which has ``largest`` vectors."""
    fewest = _FEWEST_CANDIDATES if largest <= _LARGE_INDEX else _MOST_CANDIDATES
    candidates = max(fewest, min(_CANDIDATES // max(indexes, 1), _MOST_CANDIDATES))
    return (
        f"hnsw.ef_search = {candidates}",
        "hnsw.iterative_scan = relaxed_order",  # good enough, since the answer is sorted
        "hnsw.max_scan_tuples = 20000",
    )


@dataclass(frozen=True, slots=True)
class _VectorTable:
    """The table that has the vectors of a model."""

    number: int
    indexes: int
    """The number of its parts that have an index."""
    largest: int
    """The number of vectors in the largest of these."""

    @property
    def walking(self) -> tuple[str, ...]:
        """The settings for walking it."""
        return walking(self.indexes, self.largest)


@dataclass(frozen=True, slots=True)
class WalkLimits:
    """Limits on walking the vectors, and on computing distances instead."""

    few_records: int = 20_000
    """If the criteria leave no more records than this, all distances are computed, and none is missed. In an
    archive of a million records, a walk to those of a namespace that has a hundredth of them takes ten times
    as long."""
    exact_records: int = 20_000
    """If a walk has found too few records, those that meet the criteria are all far from the question. Then
    the distances of this many of the newest are computed."""
    texts: tuple[int, ...] = (200, 2_000, 20_000)
    """The number of texts whose records are looked up, for each attempt at a walk. The first attempt is
    enough for most questions, which need the nearest fifty to a hundred; so it scans each index once."""


# What two sentence models have on average, for an archive with fewer texts than are enough to say.
_USUAL: Final = Background(0.1, 0.08)
_ENOUGH_TEXTS: Final = 30
# Texts that all say the same do not differ, and the deviation is the unit of the scores.
_MIN_DEVIATION: Final = 0.001


class Nearest:
    """Finds records by the vectors of one model.

    All methods raise TransientError when PostgreSQL can't serve, or has no vectors of the model.
    """

    def __init__(
        self,
        archive: Database,
        vectors: Database,
        *,
        model: EmbeddingModel,
        same_server: bool,
        limits: WalkLimits = WalkLimits(),
    ) -> None:
        """``archive`` is the database of the records, ``vectors`` that of the vectors of ``model``.

        ``same_server`` means that they are the same database, so that one statement reads both.
        """
        self._limits = limits
        self._archive = archive
        self._vectors = vectors
        self._search = self._search_together if same_server else self._search_apart
        self._model = model
        self._checked_generation: int | None = None

    async def nearest(self, criteria: Criteria, vector: Vector, *, limit: int, per_text: int) -> Near:
        """Return the nearest records by cosine similarity, at most the ``per_text`` newest of each text."""
        with self._refused_for_now():
            await self._check_schema()
            found = await self._search(criteria, pgvector.Vector(vector), limit, per_text)
            return Near(found, vector, is_all=len(found) < limit)

    async def similarities(
        self, criteria: Criteria, vector: Vector, text_hashes: Sequence[bytes]
    ) -> Similarities:
        """Return how near a question is to texts, and to others that are picked at random.

        If the criteria name a namespace, the others are of this namespace, too: who may read no other one
        could otherwise compute from the scores what the texts there are about.
        """
        given = pgvector.Vector(vector)
        with self._refused_for_now():
            await self._check_schema()
            others = None if criteria.namespace is None else await self._some_hashes(criteria)
            async with reading(self._vectors, chain=VECTORS) as connection:
                table, pgvector_schema = await self._table(connection), connection.vector_schema
                sql = (_BACKGROUND if others is None else _BACKGROUND_OF).format(
                    id=table.number, pgvector=pgvector_schema, texts=_SAMPLE
                )
                sample = await connection.fetchrow(sql, given, *([] if others is None else [others]))
                sql, hashes = _NEAREST_OF.format(id=table.number, pgvector=pgvector_schema), list(text_hashes)
                rows = await connection.fetch(sql, hashes, given, len(hashes)) if hashes else []
        return Similarities({row["text_hash"]: 1.0 - row["distance"] for row in rows}, _background(sample))

    async def records_of(
        self, criteria: Criteria, similarities: Mapping[bytes, float], *, per_text: int
    ) -> list[Match]:
        """Return the newest records of texts whose similarities are known, at most ``per_text`` of each."""
        distances = {text: 1.0 - similarity for text, similarity in similarities.items()}
        async with reading(self._archive, plan=ONE_PLAN) as connection:
            return await _records_of(connection, distances, criteria, len(distances) * per_text, per_text)

    async def _some_hashes(self, criteria: Criteria) -> list[bytes]:
        """Return the hashes of texts in the namespace of the criteria, in their order.

        The other conditions do not count, because texts of one action are nearer to each other than others.
        The earliest time does: it may be the age of the namespace.
        """
        of_namespace = Criteria(namespace=criteria.namespace, since=criteria.since)
        sql, arguments = _HASHES.of(of_namespace)
        async with reading(self._archive, plan=plan_for(of_namespace)) as connection:
            rows = await connection.fetch(sql, _SAMPLED_RECORDS, *arguments)
        return sorted(row["text_hash"] for row in rows)

    @contextmanager
    def _refused_for_now(self) -> Iterator[None]:
        """Raise TransientError where PostgreSQL refuses a vector: it is right, and the connection is old."""
        try:
            yield
        except RecordRefusedError as error:
            # After pgvector was installed again, the old connections still know its former type.
            self._vectors.expire_connections()
            raise TransientError(f"the vectors' tables: {error}") from error

    async def _check_schema(self) -> None:
        generation = self._vectors.generation
        if self._checked_generation != generation:  # it may be another database now
            await self._vectors.check_schema_version(VECTORS)
            self._checked_generation = generation

    async def _table(self, connection: Session) -> _VectorTable:
        # The number is looked up each time: after a backup was restored it may belong to another model. The
        # function that creates the tables would return it too, but a reader may not call it.
        row = await connection.fetchrow(
            _FIND_TABLE, self._model.provider, self._model.name, self._model.dimensions
        )
        if row is None:
            raise TransientError(
                f"there are no vectors of the model {self._model} with {self._model.dimensions} "
                "dimensions yet: set the operator's DATASTORAGE_EMBEDDING_ settings, or make them with "
                "'datastorage reembed'"
            )
        return _VectorTable(row["id"], row["indexes"], row["largest"])

    async def _search_together(
        self, criteria: Criteria, vector: Any, limit: int, per_text: int
    ) -> list[Match]:
        plan = plan_for(criteria)
        async with reading(self._archive, plan=plan, chain=VECTORS) as connection:
            table = await self._table(connection)
            are_few = await self._leaves_few(connection, criteria)
            if not are_few:
                # Whatever the conditions, a walk looks records up by their texts.
                await set_further(connection, *table.walking, plan=ONE_PLAN)
                for texts in self._attempts(limit, per_text):
                    # From the second attempt on, twice as many rows are read: if two replicas wrote a text at
                    # the same moment, it has two vectors, and its records are found twice.
                    rows = limit if texts == self._limits.texts[0] else 2 * limit
                    sql = _WALK.format(id=table.number, texts=texts, pgvector=connection.vector_schema)
                    answer = await connection.fetch(sql, per_text, rows, vector, *criteria.arguments)
                    found = _matches(answer, limit)
                    if len(found) == limit:
                        return found
                if criteria.is_open:
                    return found
            await set_further(connection, BY_KEYS, plan=plan)
            statement = _EXACT_OF_FEW if are_few else _EXACT_OF_NEWEST
            most = () if are_few else (self._limits.exact_records,)
            sql, arguments = statement.of(criteria)
            sql = sql.format(id=table.number, pgvector=connection.vector_schema)
            for rows in (limit, 2 * limit):  # as above
                answer = await connection.fetch(sql, per_text, rows, vector, *most, *arguments)
                found = _matches(answer, limit)
                if len(found) == limit or len(answer) < rows:
                    break
            return found

    async def _search_apart(self, criteria: Criteria, vector: Any, limit: int, per_text: int) -> list[Match]:
        async with reading(self._vectors, chain=VECTORS) as vectors:
            table, pgvector_schema = await self._table(vectors), vectors.vector_schema
            async with reading(self._archive, plan=plan_for(criteria)) as archive:
                if not await self._leaves_few(archive, criteria):
                    await set_further(vectors, *table.walking)
                    for texts in self._attempts(limit, per_text):
                        sql = _NEAREST.format(id=table.number, pgvector=pgvector_schema)
                        near = await vectors.fetch(sql, vector, texts)
                        found = await _records_of(archive, _distances(near), criteria, limit, per_text)
                        if len(found) == limit:
                            return found
                    if criteria.is_open:
                        return found
                sql, arguments = _HASHES.of(criteria)
                rows = await archive.fetch(sql, self._limits.exact_records, *arguments)
                hashes = [row["text_hash"] for row in rows]
                sql = _NEAREST_OF.format(id=table.number, pgvector=pgvector_schema)
                near = await vectors.fetch(sql, hashes, vector, limit)
                return await _records_of(archive, _distances(near), criteria, limit, per_text)

    def _attempts(self, limit: int, per_text: int) -> Iterator[int]:
        """Yield the number of texts for each attempt at a walk that may find enough records."""
        *some, most = self._limits.texts
        yield from (texts for texts in some if texts * per_text >= limit)
        yield most

    async def _leaves_few(self, connection: Session, criteria: Criteria) -> bool:
        if criteria.is_open:
            return False
        few = self._limits.few_records
        sql, arguments = _COUNT.of(criteria)
        return bool(await connection.fetchval(sql, few + 1, *arguments) <= few)


async def _records_of(
    archive: Session, distances: Mapping[bytes, float], criteria: Criteria, limit: int, per_text: int
) -> list[Match]:
    rows = await archive.fetch(
        _RECORDS_OF, per_text, limit, list(distances), list(distances.values()), *criteria.arguments
    )
    return _matches(rows, limit)


def _distances(near: Iterable[Any]) -> dict[bytes, float]:
    return {row["text_hash"]: row["distance"] for row in near}


def _background(row: Any) -> Background:
    if row["texts"] < _ENOUGH_TEXTS:
        return _USUAL
    return Background(row["mean"], max(row["deviation"], _MIN_DEVIATION))


def _matches(rows: Iterable[Any], limit: int) -> list[Match]:
    """Return each row once, the nearest first and the newest first among equals."""
    found: dict[Place, Match] = {}
    for row in rows:
        similarity = 1.0 - row["distance"]
        match = Match(place_of(row), row["text_hash"], similarity=similarity)
        found.setdefault(match.place, match)
    return sorted(found.values(), key=Match.order)[:limit]
