"""Gives every stored record a vector of one model, while everything else runs.

What is done is in the database, so that it may be stopped at any point, and go on later. It may run beside
the operator and beside another one of its kind: all that can happen is that something is done twice.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Final, Protocol, TypeVar

from datastorage.embedding import Embeddings
from datastorage.errors import RecordRefusedError, TransientError, WorkRefusedError
from datastorage.records.record import RecordKey, Table, Text
from datastorage.records.vector import Vector
from datastorage.resilience.dividing import by_parts, page_of
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.reading.fields import mapping_in
from datastorage.resources.reading.registry import reading_of, table_of
from datastorage.storage.texts import FIRST_ROW, FIRST_TEXT, Unlinked
from datastorage.vectors.backfill import Dependencies, Embedder, Vectors

T = TypeVar("T")

_PAGE_ROWS: Final = 500
# Contents read at once: one may have 1.5 MB.
_PAGE_BYTES: Final = 4 * 1024 * 1024
_PAGE_TEXTS: Final = 500
# Most have a vector already when the tail is made up for: comparing hashes is cheap.
_PAGE_HASHES: Final = 10_000
# How far a part of the vectors' table may grow beyond its size.
_SEAL_EVERY: Final = 5000
_AWAY_SECONDS: Final = 0.2
_INDEX_PAUSE_SECONDS: Final = 1.0
_INDEX_TRIES: Final = 3
# What is named is read by a person.
_MAX_NAMED: Final = 50


class Texts(Protocol):
    """The texts and the rows without one (storage/texts.py)."""

    async def count_unlinked(self) -> int: ...
    async def unlinked(self, table: Table, after: RecordKey, limit: int) -> list[Unlinked]: ...
    async def contents(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, bytes]: ...
    async def link(self, table: Table, links: Sequence[tuple[RecordKey, Text]]) -> None: ...
    async def count(self) -> int: ...
    async def hashes(self, after: bytes, limit: int) -> list[bytes]: ...
    async def texts(self, hashes: Sequence[bytes]) -> dict[bytes, str]: ...


class IndexedVectors(Vectors, Protocol):
    """Where vectors are written and indexed (storage/vectors.py)."""

    def most_rows(self, memory_mib: int) -> int: ...
    async def seal(self, *, full_rows: int) -> bool: ...
    async def sealed(self) -> int: ...
    async def index(self, *, memory_mib: int, full_rows: int = ...) -> bool: ...


class Stage(StrEnum):
    """What is being done."""

    LINK = "records to texts"
    EMBED = "texts to vectors"
    INDEX = "index steps"


@dataclass(frozen=True)
class Missing:
    """What is left to do. The texts of the records without one are not among the others."""

    records_without_text: int
    texts: int
    texts_without_vector: int


@dataclass
class Progress:
    """How far it has come. ``done`` and ``total`` are of the stage; a total of None is not known."""

    stage: Stage = Stage.LINK
    done: int = 0
    total: int | None = 0
    ended: list[tuple[Stage, int, int | None]] = field(default_factory=list)
    """The stages before, with what was done in them and the total."""
    linked: int = 0
    embedded: int = 0
    skipped: int = 0
    refused: int = 0
    skipped_named: list[str] = field(default_factory=list)
    """The first of them, with the reason."""
    refused_named: list[str] = field(default_factory=list)
    index_error: str | None = None

    def begin(self, stage: Stage, total: int | None) -> None:
        """Start a stage."""
        if stage is not self.stage:
            self.ended.append((self.stage, self.done, self.total))
        self.stage, self.done, self.total = stage, 0, total

    def advance(self, count: int) -> None:
        """Count what was worked through. More may come than was there at the beginning."""
        self.done += count
        if self.total is not None:
            self.total = max(self.total, self.done)

    def skip(self, name: str, reason: str) -> None:
        """Note a record whose content can't be read."""
        self.skipped += 1
        if len(self.skipped_named) < _MAX_NAMED:
            self.skipped_named.append(f"{name}: {reason}")

    def refuse(self, key: bytes, text: str, reason: str) -> None:
        """Note a text of which the model makes no vector."""
        self.refused += 1
        if len(self.refused_named) < _MAX_NAMED:
            self.refused_named.append(f"{key.hex()} {text[:60]!r}: {reason}")


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
    ) -> None:
        """``index_memory_mib`` is what the vectors' server may use for building one index."""
        self._texts = texts
        self._vectors = vectors
        self._embedder = embedder
        self._dependencies = dependencies
        self._index_memory_mib = index_memory_mib
        # Nobody searches by a new model yet: its parts get the size at once that others grow to by merging.
        self._part_rows = vectors.most_rows(index_memory_mib)
        self._unsealed = 0
        self._to_index = asyncio.Event()
        self._all_embedded = asyncio.Event()
        self.progress = Progress()

    async def missing(self) -> Missing:
        """Count what is left to do; change nothing. It reads the hashes of all texts."""
        unlinked = await self._postgres(self._texts.count_unlinked)
        texts = without = 0
        after = FIRST_TEXT
        while page := await self._page(partial(self._texts.hashes, after), _PAGE_HASHES):
            texts += len(page)
            without += len(page) - len(await self._existing(page))
            after = page[-1]
        return Missing(unlinked, texts, without)

    async def run(self) -> None:
        """Do everything. A dependency that is away is waited for."""
        self.progress.begin(Stage.LINK, await self._postgres(self._texts.count_unlinked))
        for kind in KINDS:
            await self._link_all(kind)
        self.progress.begin(Stage.EMBED, await self._postgres(self._texts.count))
        indexing = asyncio.create_task(self._index_beside(), name="index")
        try:
            await self._embed_all()
            self.progress.begin(Stage.INDEX, None)
            self._all_embedded.set()
            self._to_index.set()
            await indexing
        finally:
            indexing.cancel()
            await asyncio.gather(indexing, return_exceptions=True)
        await self._index_rest()

    def away(self) -> dict[str, str]:
        """Return what is waited for, and why."""
        of = self._dependencies
        named = {"PostgreSQL": of.postgres, "the embedder": of.embedder, "the vector store": of.vector_store}
        found = {name: breaker.reason or breaker.refused for name, breaker in named.items()}
        return {name: why for name, why in found.items() if why is not None}

    # From records to texts

    async def _link_all(self, kind: ResourceKind) -> None:
        table, after = table_of(kind), FIRST_ROW
        while page := await self._page(partial(self._texts.unlinked, table, after), _PAGE_ROWS):
            for part in _parts(page):
                await self._link_part(kind, table, part)
                self.progress.advance(len(part))
            after = page[-1].key

    async def _link_part(self, kind: ResourceKind, table: Table, keys: Sequence[RecordKey]) -> None:
        def refused(key: RecordKey, error: WorkRefusedError) -> None:
            self._skip(kind, key, str(error))

        postgres = self._dependencies.postgres
        contents = await by_parts(postgres, partial(self._texts.contents, table), keys, refused)
        links = []
        for key, content in (entry for part in contents for entry in part.items()):
            try:
                links.append((key, _text(kind, content)))
            except (ValueError, RecursionError) as error:
                self._skip(kind, key, f"its content can't be read ({type(error).__name__})")
        await self._link(kind, table, links)

    async def _link(self, kind: ResourceKind, table: Table, links: Sequence[tuple[RecordKey, Text]]) -> None:
        if not links:
            return
        try:
            await self._dependencies.postgres.judge(partial(self._texts.link, table, links))
            self.progress.linked += len(links)
        except (RecordRefusedError, WorkRefusedError) as error:
            if len(links) == 1:
                self._skip(kind, links[0][0], str(error))
                return
            # At least one of them can't be linked. Halving finds it.
            middle = len(links) // 2
            await self._link(kind, table, links[:middle])
            await self._link(kind, table, links[middle:])

    def _skip(self, kind: ResourceKind, key: RecordKey, reason: str) -> None:
        self.progress.skip(f"{kind.kind} {key.uid}, generation {key.generation}", reason)

    # From texts to vectors

    async def _embed_all(self) -> None:
        after = FIRST_TEXT
        while page := await self._page(partial(self._texts.hashes, after), _PAGE_HASHES):
            present = await self._existing(page)
            self.progress.advance(len(present))
            missing = [key for key in page if key not in present]
            for start in range(0, len(missing), _PAGE_TEXTS):
                part = missing[start : start + _PAGE_TEXTS]
                texts = await by_parts(self._dependencies.postgres, self._texts.texts, part)
                await self._embed({key: text for found in texts for key, text in found.items()})
                self.progress.advance(len(part))
            after = page[-1]

    async def _embed(self, texts: dict[bytes, str]) -> None:
        while texts:
            found = await self._embedder.embed(texts, patience_seconds=None, ask_again=True)
            await self._settle(texts, found)
            texts = {
                key: text
                for key, text in texts.items()
                if key not in found.vectors and key not in found.refused
            }
            if found.error is None:
                return
            # It is away, and the breaker asks for us whether it serves again; or it fails with many texts,
            # and some of them have been settled.
            await asyncio.sleep(_AWAY_SECONDS)
            while not self._dependencies.embedder.serving:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(_AWAY_SECONDS)

    async def _settle(self, texts: dict[bytes, str], found: Embeddings) -> None:
        for key, reason in found.refused.items():
            self.progress.refuse(key, texts[key], reason)
        if not found.vectors:
            return
        await self._insert(texts, found.vectors)
        self.progress.embedded += len(found.vectors)
        self._unsealed += len(found.vectors)
        if self._unsealed >= _SEAL_EVERY:
            self._unsealed = 0
            await self._vector_store(partial(self._vectors.seal, full_rows=self._part_rows))
            self._to_index.set()

    async def _insert(self, texts: dict[bytes, str], vectors: Mapping[bytes, Vector]) -> None:
        def refused(key: bytes, error: WorkRefusedError) -> None:
            self.progress.embedded -= 1
            self.progress.refuse(key, texts[key], str(error))

        async def insert(keys: Sequence[bytes]) -> None:
            await self._vectors.insert({key: vectors[key] for key in keys})

        await by_parts(self._dependencies.vector_store, insert, list(vectors), refused)

    async def _existing(self, hashes: Sequence[bytes]) -> set[bytes]:
        parts = await by_parts(self._dependencies.vector_store, self._vectors.existing, hashes)
        return {key for part in parts for key in part}

    # From vectors to the index

    async def _index_beside(self) -> None:
        """Index what is full while more is written. What fails here is done in the end."""
        while not self._all_embedded.is_set():
            await self._to_index.wait()
            self._to_index.clear()
            try:
                more = True
                while more and not self._all_embedded.is_set():
                    more = await self._vectors.index(
                        memory_mib=self._index_memory_mib, full_rows=self._part_rows
                    )
            except TransientError:
                await asyncio.sleep(_INDEX_PAUSE_SECONDS)

    async def _index_rest(self) -> None:
        """Index until nothing is left to do. Where another process is at it, that one is waited for."""
        failures = 0
        while failures < _INDEX_TRIES:
            try:
                if await self._vectors.index(memory_mib=self._index_memory_mib):
                    self.progress.advance(1)
                    failures = 0
                    continue
                if not await self._vectors.sealed():
                    self.progress.index_error = None
                    return
                # Sealed a moment ago, or another process is at it, which lets go of it when it ends.
            except TransientError as error:
                failures += 1
                self.progress.index_error = str(error)
            await asyncio.sleep(_INDEX_PAUSE_SECONDS)

    async def _page(self, read: Callable[[int], Awaitable[list[T]]], most: int) -> list[T]:
        return await page_of(self._dependencies.postgres, read, most)

    async def _postgres(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await self._dependencies.postgres.run(operation)

    async def _vector_store(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await self._dependencies.vector_store.run(operation)


def _text(kind: ResourceKind, content: bytes) -> Text:
    """Return the text of a stored content. Raises ValueError and RecursionError when it can't be read."""
    body = json.loads(content)
    if not isinstance(body, dict):
        raise ValueError("no object")  # noqa: TRY004  # of the content, not of a type
    return reading_of(kind).text(mapping_in(body, "spec"))


def _parts(rows: Sequence[Unlinked]) -> Iterator[list[RecordKey]]:
    """Split rows into parts of bounded size; a larger row is one by itself."""
    part: list[RecordKey] = []
    size = 0
    for row in rows:
        if part and size + row.size > _PAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(row.key)
        size += row.size
    if part:
        yield part
