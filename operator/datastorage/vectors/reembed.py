"""Gives every stored record a vector of one model, while everything else runs.

All results are in the database, so that a run may be stopped at any point and continued later. The operator
and another run may be at work at the same time: at worst, some work is done twice.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from datastorage.errors import TransientError
from datastorage.records.record import RecordKey, Table, Text
from datastorage.records.vector import Vector
from datastorage.resilience.dividing import chunks, in_halves, read_page
from datastorage.resilience.signal import Signal
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.reading.fields import mapping_in
from datastorage.resources.reading.registry import reading_of, table_of
from datastorage.storage.texts import FIRST_ROW, FIRST_TEXT, RowWithoutText
from datastorage.vectors.backfill import Dependencies, Embedder, Vectors
from datastorage.vectors.progress import Missing, Progress, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """How much is done at once, and how long the pauses are."""

    page_rows: int = 500
    page_bytes: int = 4 * 1024 * 1024
    """Bytes of the contents read at once: a single one may have 1.5 MB."""
    page_texts: int = 500
    page_hashes: int = 10_000
    """If a run follows another one, most texts have a vector already: comparing hashes is cheap."""
    seal_every: int = 5000
    """The number of vectors by which a partition may exceed its size."""
    away_seconds: float = 0.2
    """After a call in which the embedder did not embed all texts."""
    index_pause_seconds: float = 1.0
    """Between two attempts to index, after a failure or while another process indexes."""
    index_tries: int = 3
    """After this many failures in a row the rest is left to the operator."""


class Texts(Protocol):
    """Texts, and rows without a text (storage/texts.py)."""

    async def count_without_text(self) -> int: ...
    async def without_text(self, table: Table, after: RecordKey, limit: int) -> list[RowWithoutText]: ...
    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]: ...
    async def add_texts(self, table: Table, rows: Sequence[tuple[RecordKey, Text]]) -> None: ...
    async def count(self) -> int: ...
    async def hashes(self, after: bytes, limit: int) -> list[bytes]: ...
    async def texts(self, hashes: Sequence[bytes]) -> dict[bytes, str]: ...


class IndexedVectors(Vectors, Protocol):
    """The store of vectors and its indexes (storage/vectors.py)."""

    def max_rows(self, memory_mib: int) -> int: ...
    async def seal(self, *, full_rows: int) -> bool: ...
    async def sealed(self) -> int: ...
    async def index(self, *, memory_mib: int, full_rows: int = ...) -> bool: ...


class Reembed:
    """One run, from the rows to the index."""

    def __init__(
        self,
        *,
        texts: Texts,
        vectors: IndexedVectors,
        embedder: Embedder,
        dependencies: Dependencies,
        index_memory_mib: int,
        pace: Pace = Pace(),
    ) -> None:
        """``index_memory_mib`` is the memory that the vectors' server may use for building one index."""
        self._texts = texts
        self._vectors = vectors
        self._embedder = embedder
        self._dependencies = dependencies
        self._index_memory_mib = index_memory_mib
        self._pace = pace
        # Nobody searches with a new model yet: its partitions get their final, merged size at once.
        self._partition_rows = vectors.max_rows(index_memory_mib)
        self._unsealed = 0
        self._to_index = Signal()
        self._all_embedded = False
        self.progress = Progress()

    async def missing(self) -> Missing:
        """Count what is left to do; change nothing. It reads the hashes of all texts."""
        records = await self._postgres(self._texts.count_without_text)
        texts = without = 0
        after = FIRST_TEXT
        while page := await self._page(partial(self._texts.hashes, after), self._pace.page_hashes):
            texts += len(page)
            without += len(page) - len(await self._existing(page))
            after = page[-1]
        return Missing(records, texts, without)

    async def run(self) -> None:
        """Set texts, make vectors and index them; wait for a dependency that is away."""
        self.progress.begin(Stage.SET_TEXTS, await self._postgres(self._texts.count_without_text))
        for kind in KINDS:
            await self._set_all_texts(kind)
        self.progress.begin(Stage.EMBED, await self._postgres(self._texts.count))
        indexing = asyncio.create_task(self._index_beside(), name="index")
        try:
            await self._embed_all()
            self.progress.begin(Stage.INDEX, None)
            self._all_embedded = True
            self._to_index.set()
            await indexing
        finally:
            indexing.cancel()
            await asyncio.gather(indexing, return_exceptions=True)
        await self._index_rest()

    def away(self) -> dict[str, str]:
        """Return the dependencies that the run waits for, each with the reason."""
        breakers = {
            "PostgreSQL": self._dependencies.postgres,
            "the embedder": self._dependencies.embedder,
            "the vector store": self._dependencies.vector_store,
        }
        found = {name: breaker.why_waiting for name, breaker in breakers.items()}
        return {name: why for name, why in found.items() if why is not None}

    # From records to texts

    async def _set_all_texts(self, kind: ResourceKind) -> None:
        table, after = table_of(kind), FIRST_ROW
        while page := await self._page(partial(self._texts.without_text, table, after), self._pace.page_rows):
            for chunk in chunks(page, lambda row: row.size, self._pace.page_bytes):
                await self._add_texts(kind, table, [row.key for row in chunk])
                self.progress.advance(len(chunk))
            after = page[-1].key

    async def _add_texts(self, kind: ResourceKind, table: Table, keys: Sequence[RecordKey]) -> None:
        def skip(key: RecordKey, reason: object) -> None:
            self.progress.skip(f"{kind.kind} {key.uid}, generation {key.generation}", str(reason))

        async def write(texts: Sequence[tuple[RecordKey, Text]]) -> None:
            await self._texts.add_texts(table, texts)
            self.progress.given_text += len(texts)

        postgres = self._dependencies.postgres
        contents = await in_halves(postgres, partial(self._texts.contents, table), keys, skip)
        texts = []
        for key, content in (entry for found in contents for entry in found.items()):
            try:
                texts.append((key, _text(kind, content)))
            except (ValueError, RecursionError) as error:
                skip(key, f"its content can't be read ({type(error).__name__})")
        await in_halves(postgres, write, texts, lambda entry, error: skip(entry[0], error))

    # From texts to vectors

    async def _embed_all(self) -> None:
        after = FIRST_TEXT
        while page := await self._page(partial(self._texts.hashes, after), self._pace.page_hashes):
            present = await self._existing(page)
            self.progress.advance(len(present))
            missing = [key for key in page if key not in present]
            for start in range(0, len(missing), self._pace.page_texts):
                hashes = missing[start : start + self._pace.page_texts]
                found = await in_halves(self._dependencies.postgres, self._texts.texts, hashes)
                await self._embed({key: text for texts in found for key, text in texts.items()})
                self.progress.advance(len(hashes))
            after = page[-1]

    async def _embed(self, texts: dict[bytes, str]) -> None:
        while texts:
            found = await self._embedder.embed(texts, timeout_seconds=None, ask_again=True)
            for key, reason in found.refused.items():
                self.progress.refuse(key, texts[key], reason)
            if found.vectors:
                await self._store(texts, found.vectors)
            texts = {
                key: text
                for key, text in texts.items()
                if key not in found.vectors and key not in found.refused
            }
            if found.error is None:
                return
            # The embedder is away, or it fails for many texts at once and has embedded only some of them.
            await asyncio.sleep(self._pace.away_seconds)
            await self._dependencies.embedder.until_serving()

    async def _store(self, texts: Mapping[bytes, str], vectors: Mapping[bytes, Vector]) -> None:
        async def insert(keys: Sequence[bytes]) -> None:
            await self._vectors.insert({key: vectors[key] for key in keys})
            self.progress.embedded += len(keys)

        await in_halves(
            self._dependencies.vector_store, insert, list(vectors),
            lambda key, error: self.progress.refuse(key, texts[key], str(error)),
        )  # fmt: skip
        self._unsealed += len(vectors)
        if self._unsealed >= self._pace.seal_every:
            self._unsealed = 0
            seal = partial(self._vectors.seal, full_rows=self._partition_rows)
            await self._dependencies.vector_store.run(seal)
            self._to_index.set()

    async def _existing(self, hashes: Sequence[bytes]) -> set[bytes]:
        found = await in_halves(self._dependencies.vector_store, self._vectors.existing, hashes)
        return set().union(*found)

    # From vectors to the index

    async def _index_beside(self) -> None:
        """Index full partitions while more vectors are written. ``_index_rest`` repeats a step that fails."""
        while not self._all_embedded:
            await self._to_index.wait()
            try:
                more = True
                while more and not self._all_embedded:
                    more = await self._vectors.index(
                        memory_mib=self._index_memory_mib, full_rows=self._partition_rows
                    )
            except TransientError:
                await asyncio.sleep(self._pace.index_pause_seconds)

    async def _index_rest(self) -> None:
        """Index until nothing is left to do; wait for another process that indexes."""
        failures = 0
        while failures < self._pace.index_tries:
            try:
                if await self._vectors.index(memory_mib=self._index_memory_mib):
                    self.progress.advance(1)
                    failures = 0
                    continue
                if not await self._vectors.sealed():
                    self.progress.index_error = None
                    return
                # A partition was sealed a moment ago, or another process is indexing it.
            except TransientError as error:
                failures += 1
                self.progress.index_error = str(error)
            await asyncio.sleep(self._pace.index_pause_seconds)

    async def _page(self, read: Callable[[int], Awaitable[list[T]]], most: int) -> list[T]:
        return await read_page(self._dependencies.postgres, read, most)

    async def _postgres(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await self._dependencies.postgres.run(operation)


def _text(kind: ResourceKind, content: bytes) -> Text:
    """Return the text of a stored content. Raises ValueError and RecursionError when it can't be read."""
    body = json.loads(content)
    if not isinstance(body, dict):
        raise ValueError("no object")  # noqa: TRY004  # of the content, not of a type
    return reading_of(kind).text(mapping_in(body, "spec"))
