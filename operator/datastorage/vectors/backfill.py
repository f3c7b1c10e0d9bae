"""Pays what is owed: makes the vectors of what waits in the outbox.

The outbox is in PostgreSQL, so that it survives every crash, and any replica may go on with it.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from datastorage import metrics
from datastorage.embedding import Embeddings
from datastorage.errors import TransientError, WorkRefusedError
from datastorage.records.vector import Vector
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.storage.outbox import Claim, OutboxDepth, OutboxState, PendingVector

_log = logging.getLogger(__name__)

_BATCH: Final = 500
# How often the outbox is looked at without being asked: other replicas and people add to it too.
_POLL_SECONDS: Final = 5.0
# While a dependency is away this costs nothing: its breaker alone asks for it.
_AWAY_SECONDS: Final = 0.5
# Counting reads the whole outbox.
_COUNT_SECONDS: Final = 15.0
# A count that is refused for the time that it takes will not be quicker soon.
_REFUSED_COUNT_SECONDS: Final = 300.0


class Outbox(Protocol):
    """Where the owed vectors wait (storage/outbox.py)."""

    def claim(self, limit: int) -> AbstractAsyncContextManager[Claim]: ...
    async def depths(self) -> Mapping[OutboxState, OutboxDepth]: ...


class Embedder(Protocol):
    """Who makes vectors (embedding/embedder.py)."""

    async def embed(
        self, texts: Mapping[bytes, str], *, patience_seconds: float | None, ask_again: bool
    ) -> Embeddings: ...


class Vectors(Protocol):
    """Where vectors are written (storage/vectors.py)."""

    async def existing(self, hashes: Sequence[bytes]) -> set[bytes]: ...
    async def insert(self, vectors: Mapping[bytes, Vector]) -> None: ...


@dataclass(frozen=True)
class Dependencies:
    """The breakers of what the backfill needs."""

    postgres: Breaker
    embedder: Breaker
    vector_store: Breaker

    @property
    def serving(self) -> bool:
        """Whether vectors can be made and written, as far as is known."""
        return self.embedder.serving and self.vector_store.serving


class Backfill:
    """Drains the outbox on request and at intervals, and asks for a look at the objects of what it wrote."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        embedder: Embedder,
        vectors: Vectors,
        dependencies: Dependencies,
        on_progress: Callable[[], None],
    ) -> None:
        """``on_progress`` is called after vectors were written or refused, here or by others (promote.py)."""
        self._outbox = outbox
        self._embedder = embedder
        self._vectors = vectors
        self._dependencies = dependencies
        self._on_progress = on_progress
        self._requested = Signal()
        # How many are claimed at once: fewer after that was too much.
        self._limit = _BATCH
        # Why a batch was refused last, so that each reason is logged once.
        self._refusal = ""
        self._pending = 0
        self._counted_at = -_COUNT_SECONDS

    def request(self) -> None:
        """Ask for a look at the outbox soon."""
        self._requested.set()

    async def run(self) -> None:
        """Work until cancelled, the first time at once."""
        while True:
            if self._dependencies.serving and await self._drain():
                self._on_progress()
            await self._count()
            await self._requested.wait(_POLL_SECONDS if self._dependencies.serving else _AWAY_SECONDS)

    async def _drain(self) -> bool:
        """Work through what is due; tell whether any of it came to an end."""
        settled_any, more = False, True
        while more:
            try:
                settled, more = await self._dependencies.postgres.judge(self._settle_batch)
            except WorkRefusedError as error:
                # Claiming so many, or noting what became of them.
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    _log.warning(
                        "A batch of owed vectors is refused; smaller ones are tried",
                        extra={"error": str(error)},
                    )
                settled, more = False, self._limit > 1
                self._limit = max(1, self._limit // 2)
            settled_any = settled_any or settled
        return settled_any

    async def _settle_batch(self) -> tuple[bool, bool]:
        """Settle a batch; tell whether anything came to an end, and whether to go on."""
        async with self._outbox.claim(self._limit) as claim:
            if not claim.rows:
                return False, False
            try:
                settled = await self._settle(claim)
            except WorkRefusedError as error:
                # The vectors' server serves, and this was too much for it.
                if len(claim.rows) == 1:
                    claim.delay(claim.rows, str(error), alone=True)
                self._limit = max(1, len(claim.rows) // 2)
                return False, True
            except TransientError as error:
                # The vectors' server is away. All of it is owed as before, and tried again later.
                claim.delay(claim.rows, str(error))
                return False, False
        self._refusal = ""
        self._limit = min(self._limit + self._limit // 8 + 1, _BATCH)
        return settled

    async def _settle(self, claim: Claim) -> tuple[bool, bool]:
        store = self._dependencies.vector_store
        hashes = list({row.text_hash for row in claim.rows})
        present = await store.attempt(lambda: self._vectors.existing(hashes))
        embeddings = await self._embedder.embed(
            {row.text_hash: row.text for row in claim.rows if row.text_hash not in present},
            patience_seconds=None,
            ask_again=any(row.attempts for row in claim.rows),
        )
        if embeddings.vectors:
            await store.attempt(lambda: self._vectors.insert(embeddings.vectors))
        # The vectors are committed before their entries go. A crash in between repeats this, without effect.
        paid = [row for row in claim.rows if row.text_hash in present or row.text_hash in embeddings.vectors]
        refused = [row for row in claim.rows if row.text_hash in embeddings.refused]
        claim.remove(paid)
        claim.refuse(refused, embeddings.refused)
        metrics.OUTBOX_SETTLED.labels("written").inc(len(paid))
        metrics.OUTBOX_SETTLED.labels("failed").inc(len(refused))
        if embeddings.error is not None:
            claim.delay(_rest(claim.rows, paid, refused), str(embeddings.error))
        settled = bool(paid or refused)
        return settled, settled or embeddings.error is None

    async def _count(self) -> None:
        if time.monotonic() - self._counted_at < _COUNT_SECONDS:
            return
        try:
            depths = await self._dependencies.postgres.judge(self._outbox.depths)
        except WorkRefusedError as error:
            _log.warning("The owed vectors can't be counted for now", extra={"error": str(error)})
            self._counted_at = time.monotonic() + _REFUSED_COUNT_SECONDS
            return
        self._counted_at = time.monotonic()
        pending = depths[OutboxState.PENDING].depth
        if pending < self._pending:
            # Another replica has paid, or a person has dropped something: objects may wait to hear of it.
            self._on_progress()
        self._pending = pending
        for state, depth in depths.items():
            metrics.OUTBOX_DEPTH.labels(state.value).set(depth.depth)
        metrics.OUTBOX_AGE.set(depths[OutboxState.PENDING].oldest_seconds)


def _rest(rows: Sequence[PendingVector], *done: Sequence[PendingVector]) -> list[PendingVector]:
    known = {_key(row) for part in done for row in part}
    return [row for row in rows if _key(row) not in known]


def _key(row: PendingVector) -> tuple[str, int, bytes]:
    return row.uid, row.generation, row.text_hash
