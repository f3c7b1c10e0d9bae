"""Measures searches over many distinct texts: their speed and their recall, compared with pgvector alone.

``python -m benchmarks.search_speed`` fills an archive of its own and prints a table; ``measure`` does it on a
database that the caller brings. Everything goes through the code that the service uses.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from typing import Any, Final

import asyncpg
import numpy as np
import pgvector
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.progress import Progress, say
from benchmarks.texts import questions, sentences
from datastorage.assembly.queries import build_queries
from datastorage.assembly.rest import READ_POOL_SIZE
from datastorage.assembly.searching import by_meaning
from datastorage.embedding import Embedder, VectorCache
from datastorage.embedding.wordllama import MODEL, WordLlamaProvider
from datastorage.metrics import Dependency
from datastorage.query.questions import ArchiveQueries
from datastorage.query.questionwords import wording
from datastorage.records.record import Record
from datastorage.records.vector import Vector
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.settingsgroups import ThesaurusSettings
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import Criteria
from datastorage.storage.fulltext import FullText
from datastorage.storage.nearest import Nearest, walking
from datastorage.storage.readonly import READING, reading
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive
from datastorage.thesaurus.loading import load_groups
from harness.objects import served
from harness.postgres import PostgresServer, TestDatabases

TOP: Final = 10
_BATCH: Final = 2_000
_PART_ROWS: Final = 20_000
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS: Final = 180
# A hundred namespaces with one in a hundred records each, and one with one in ten thousand.
_NAMESPACES: Final = 100
_RARE: Final = "rare"
_RARE_EVERY: Final = 10_000
_CASES: Final = (
    ("no filter", Criteria()),
    ("1 %", Criteria(namespace="ns-7")),
    ("0.01 %", Criteria(namespace=_RARE)),
)
# Distances that differ by less are the same within 32-bit arithmetic: either neighbour is right.
_TIE: Final = 2e-6
_WRITES_A_SECOND: Final = 200
_WRITE_ROWS: Final = 20
# The query to pgvector alone has 200 candidates in each index, however many the service has: otherwise, what
# makes walks quicker would seem to make filters slower.
_BARE_SETTINGS: Final = walking(1, 1_000_000)
_BARE: Final = (
    "SELECT text_hash, embedding <=> $1 AS distance FROM datastorage.embeddings_1 "
    f"ORDER BY embedding <=> $1 LIMIT {TOP}"
)

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class SearchSpeed:
    """One line of the table. ``ratio`` is the median time divided by that of the query to pgvector alone."""

    case: str
    records: int
    p50_ms: float
    p95_ms: float
    recall: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class _Vectors:
    database: Database
    same_server: bool
    embedder: Embedder


@dataclass(frozen=True)
class _Store:
    database: Database
    vectors: _Vectors | None


@dataclass
class _Corpus:
    provider: WordLlamaProvider
    hashes: dict[bytes, int] = field(default_factory=dict)
    vectors: list[Matrix] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    async def embed(self, records: Sequence[Record]) -> dict[bytes, Matrix]:
        texts = {r.text.hash: r.text.text for r in records if r.text is not None}
        return dict(zip(texts, await self.provider.embed(list(texts.values())), strict=True))

    def add(self, records: Sequence[Record], vectors: dict[bytes, Matrix]) -> None:
        for record in records:
            if record.text is not None and record.text.hash not in self.hashes:
                self.hashes[record.text.hash] = len(self.hashes)
                self.vectors.append(vectors[record.text.hash])
                self.namespaces.append(record.namespace)


async def measure(
    owner_url: str, service_url: str, *, texts: int = 100_000, asked: int = 100, memory_mib: int = 512
) -> list[SearchSpeed]:
    """Fill a migrated, empty archive, search it, and return what was measured."""
    provider = WordLlamaProvider()
    corpus = _Corpus(provider)
    await _fill(owner_url, service_url, corpus, texts, memory_mib)
    words = list(questions(asked, seed=2))
    vectors = await provider.embed(words)
    database = Database(service_url, pool_size=READ_POOL_SIZE, session_settings=READING)
    try:
        return await _measure_all(database, corpus, words, vectors)
    finally:
        await database.close()
        await provider.close()


async def _measure_all(
    database: Database, corpus: _Corpus, words: Sequence[str], vectors: Matrix
) -> list[SearchSpeed]:
    nearest = Nearest(database, database, model=MODEL, same_server=True)
    full_text = FullText(database, synonyms=load_groups(ThesaurusSettings()))
    matrix = np.array(corpus.vectors)
    rows_of = {name: _matching(corpus, criteria) for name, criteria in _CASES}
    bare_seconds, bare_found = await _timed(vectors, partial(_bare, database))
    bare = _line(
        "pgvector alone, 200 candidates",
        len(matrix),
        bare_seconds,
        recall=_recall(corpus, vectors, _matching(corpus, Criteria()), bare_found),
    )
    lines = [bare]
    for name, criteria in _CASES:
        seconds, found = await _timed(vectors, partial(_search, nearest, criteria))
        recall = _recall(corpus, vectors, rows_of[name], found)
        lines.append(_line(f"by meaning, {name}", len(rows_of[name]), seconds, recall=recall, bare=bare))
    for name, criteria in _CASES:
        seconds, _ = await _timed(words, partial(_by_words, full_text, criteria))
        lines.append(_line(f"by words, {name}", len(rows_of[name]), seconds))
    async with _whole(database, corpus.provider) as ask:
        seconds, _ = await _timed(words, partial(ask.search, limit=TOP))
    lines.append(_line("by both, from the question to the records", len(matrix), seconds))
    async with _writing(database, corpus):
        seconds, _ = await _timed(vectors, partial(_search, nearest, Criteria()))
    lines.append(
        _line(f"by meaning, while {_WRITES_A_SECOND} records/s are written", len(matrix), seconds, bare=bare)
    )
    return lines


def _matching(corpus: _Corpus, criteria: Criteria) -> NDArray[np.int64]:
    """Return the rows whose records a search with these criteria may find."""
    if criteria.namespace is None:
        return np.arange(len(corpus.namespaces))
    return np.flatnonzero(np.array(corpus.namespaces) == criteria.namespace)


async def _bare(database: Database, vector: Matrix) -> list[bytes]:
    async with reading(database, *_BARE_SETTINGS) as connection:
        return [row["text_hash"] for row in await connection.fetch(_BARE, pgvector.Vector(vector))]


async def _search(nearest: Nearest, criteria: Criteria, vector: Matrix) -> list[bytes]:
    near = await nearest.nearest(criteria, vector, limit=TOP, per_text=3)
    return [match.text_hash for match in near.matches if match.text_hash is not None]


class _NoCache(VectorCache):
    """Keeps nothing: otherwise only the warm-up would embed the questions, and not what is timed."""

    async def set(self, vectors: Mapping[bytes, Vector]) -> None:
        """Do nothing."""


@asynccontextmanager
async def _whole(database: Database, provider: WordLlamaProvider) -> AsyncIterator[ArchiveQueries]:
    """Open the queries as the command line uses them: questions are embedded, and records are read."""
    breaker = Breaker(Dependency.EMBEDDER, _serves, on_recovery=lambda: None)
    embedder = Embedder(provider, _NoCache(MODEL), breaker)
    synonyms = load_groups(ThesaurusSettings())
    yield build_queries(database, by_meaning(database, embedder), synonyms=synonyms)
    await breaker.close()


async def _serves() -> None:
    """Do nothing: the provider is in this process, and always serves."""


async def _by_words(full_text: FullText, criteria: Criteria, question: str) -> None:
    await full_text.find(criteria, wording(question), limit=50, per_text=3)


async def _timed(
    asked: Iterable[Any], search: Callable[[Any], Awaitable[Any]]
) -> tuple[list[float], list[list[bytes]]]:
    """Search for everything once to warm up, then once more; return the times and what was found."""
    asked = list(asked)
    for each in asked:
        await search(each)
    seconds: list[float] = []
    found = []
    for each in asked:
        started = time.perf_counter()
        found.append(await search(each))
        seconds.append(time.perf_counter() - started)
    return seconds, found


def _line(
    case: str,
    records: int,
    seconds: list[float],
    *,
    recall: float | None = None,
    bare: SearchSpeed | None = None,
) -> SearchSpeed:
    ordered = sorted(1000 * each for each in seconds)
    p50, p95 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return SearchSpeed(case, records, p50, p95, recall, p50 / bare.p50_ms if bare is not None else None)


def _recall(
    corpus: _Corpus, vectors: Matrix, rows: NDArray[np.int64], found: Sequence[Sequence[bytes]]
) -> float:
    """Return the share of the nearest rows that was found; equally near ones are equally right."""
    matrix = np.array(corpus.vectors)
    shares = []
    for vector, hashes in zip(vectors, found, strict=True):
        wanted = min(TOP, len(rows))
        threshold = np.sort(matrix[rows] @ vector)[-wanted]
        places = [corpus.hashes[each] for each in set(hashes)]
        shares.append(min(wanted, int((matrix[places] @ vector >= threshold - _TIE).sum())) / wanted)
    return float(np.mean(shares))


async def _fill(owner_url: str, service_url: str, corpus: _Corpus, texts: int, memory_mib: int) -> None:
    database = Database(service_url, pool_size=2)
    archive, tables = Archive(database), _tables(database)
    progress = Progress("stored and indexed", texts)
    records = _records(texts)
    while batch := list(islice(records, _BATCH)):
        vectors = await corpus.embed(batch)
        await archive.write(batch)
        await tables.insert(vectors)
        corpus.add(batch, vectors)
        if len(corpus.hashes) % _PART_ROWS < _BATCH:
            while await tables.index(memory_mib=memory_mib, full_rows=_PART_ROWS, grace_seconds=0):
                pass
        progress.update(len(corpus.hashes))
    await database.close()
    owner = await asyncpg.connect(owner_url)
    await owner.execute("VACUUM ANALYZE")
    await owner.close()


def _tables(database: Database) -> VectorTables:
    return VectorTables(database, MODEL)


def _records(texts: int, *, seed: int = 1) -> Iterator[Record]:
    """Yield a record for each text, every fourth an ActionTrace, spread over half a year."""
    chance = random.Random(seed)
    for number, text in enumerate(sentences(texts, seed=seed)):
        namespace = f"ns-{chance.randrange(_NAMESPACES)}" if number % _RARE_EVERY != 7 else _RARE
        created = _START + timedelta(days=_DAYS * number / texts)
        kind = ACTION_TRACE if number % 4 == 3 else AUDIT_RECORD
        spec: dict[str, Any] = {"correlationID": f"rr-{number // 8}"}
        if kind is ACTION_TRACE:
            spec |= {
                "actionType": "restart_pod", "model": {"reasoning": text},
                "targetRef": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "api"},
            }  # fmt: skip
        else:
            spec |= {"type": "Remediation", "action": "act", "phase": "Completed", "message": text}
        body = served(
            kind, spec, name=f"record-{number}", namespace=namespace,
            uid=str(uuid.UUID(int=chance.getrandbits(128))), creationTimestamp=created.isoformat(),
        )  # fmt: skip
        yield record_of(kind, body)


@asynccontextmanager
async def _writing(database: Database, corpus: _Corpus) -> AsyncIterator[None]:
    """Write records meanwhile as the service does: a batch, its vectors, the next batch."""
    task = asyncio.create_task(_write(database, corpus))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _write(database: Database, corpus: _Corpus) -> None:
    archive, tables = Archive(database), _tables(database)
    records = _records(1_000_000, seed=9)
    started = time.monotonic()
    for batch in count(1):
        rows = list(islice(records, _WRITE_ROWS))
        await archive.write(rows)
        await tables.insert(await corpus.embed(rows))
        due = started + batch * _WRITE_ROWS / _WRITES_A_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def table_of(lines: Sequence[SearchSpeed]) -> Table:
    """Return the lines as a table."""
    table = Table("search", "records", "p50 ms", "p95 ms", f"recall@{TOP}", "x pgvector alone", box=None)
    for line in lines:
        table.add_row(
            line.case, f"{line.records:,}", f"{line.p50_ms:.1f}", f"{line.p95_ms:.1f}",
            "" if line.recall is None else f"{line.recall:.3f}",
            "" if line.ratio is None else f"{line.ratio:.2f}",
        )  # fmt: skip
    return table


def main() -> int:
    """Measure on a PostgreSQL of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_speed", description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000, help="distinct texts (default 100,000)")
    parser.add_argument("--questions", type=int, default=100, help="questions asked (default 100)")
    parser.add_argument(
        "--shared-buffers", type=int, metavar="MIB", help="PostgreSQL's cache (default: its own, 128 MiB)"
    )
    arguments = parser.parse_args()
    with PostgresServer(durable=True, shared_buffers_mib=arguments.shared_buffers) as server:
        databases = TestDatabases(server.owner_url)
        databases.prepare()
        archive = asyncio.run(databases.clone())
        say(f"Filling an archive with {arguments.texts:,} texts")
        lines = asyncio.run(
            measure(archive.owner_url, archive.service_url, texts=arguments.texts, asked=arguments.questions)
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
