"""Makes and writes the vectors that are pending in the outbox.

The outbox is in PostgreSQL, so that it survives every crash and any replica can continue with it.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from datastorage import metrics
from datastorage.embedding import Embeddings
from datastorage.errors import TransientError, WorkRefusedError
from datastorage.records.reasons import Reason
from datastorage.records.vector import Vector
from datastorage.records.vectorwrite import WriteState
from datastorage.resilience.breaker import Breaker
from datastorage.resilience.signal import Signal
from datastorage.resilience.worker import repeat
from datastorage.storage.outbox import Claim, PendingVector
from datastorage.tracing import NO_TRACES, Traces

_log = logging.getLogger(__name__)

# Vectors that are made and written at once, when that has turned out to be quick enough.
_BATCH: Final = 500
_FIRST_BATCH: Final = 100


class Outbox(Protocol):
    """The outbox of pending vectors (storage/outbox.py)."""

    def claim(self, limit: int) -> AbstractAsyncContextManager[Claim]: ...


class Embedder(Protocol):
    """Makes vectors (embedding/embedder.py)."""

    async def embed(
        self, texts: Mapping[bytes, str], *, timeout_seconds: float | None, ask_again: bool
    ) -> Embeddings: ...


class Vectors(Protocol):
    """The store of vectors (storage/vectors.py)."""

    async def existing(self, hashes: Sequence[bytes]) -> set[bytes]: ...
    async def insert(self, vectors: Mapping[bytes, Vector]) -> None: ...


@dataclass(frozen=True)
class Dependencies:
    """The breakers of the servers that the backfill needs."""

    postgres: Breaker
    embedder: Breaker
    vector_store: Breaker

    @property
    def serving(self) -> bool:
        """Whether vectors can be made and written, as far as is known."""
        return self.embedder.serving and self.vector_store.serving

    @property
    def trouble(self) -> tuple[Reason, str] | None:
        """Why no vector can be made or written, in a word and a sentence; None if nothing is known of it."""
        if self.embedder.reason is not None:
            return Reason.EMBEDDER_UNAVAILABLE, self.embedder.reason
        if self.vector_store.reason is not None:
            return Reason.VECTOR_STORE_UNAVAILABLE, self.vector_store.reason
        return None


@dataclass(frozen=True)
class Pace:
    """Durations in seconds."""

    interval: float = 5.0
    """From one look at the outbox to the next without a request: other replicas and people add to it too."""
    away: float = 0.5
    """The same while a dependency is away. A look costs nothing then: only the breaker probes it."""
    batch: float = 10.0
    """The time of a batch, from which the next one is made smaller. A claim lasts three times as long
    (storage/outbox.py): a slow model would not be done by then, and another replica would do the same."""


class Backfill:
    """Drains the outbox on request and at intervals."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        embedder: Embedder,
        vectors: Vectors,
        dependencies: Dependencies,
        on_progress: Callable[[], None],
        pace: Pace = Pace(),
        traces: Traces = NO_TRACES,
    ) -> None:
        """``on_progress`` is called after vectors were written or refused, or a dependency was found to be
        away, for the statuses (promote.py).
        """
        self._outbox = outbox
        self._embedder = embedder
        self._vectors = vectors
        self._dependencies = dependencies
        self._on_progress = on_progress
        self._pace = pace
        self._traces = traces
        self._requests = Signal()
        # How many are claimed at once: fewer after a batch was too large, or took too long.
        self._limit = _FIRST_BATCH
        # Why a batch was refused last, so that each reason is logged once.
        self._refusal = ""

    def request(self) -> None:
        """Ask for a look at the outbox soon."""
        self._requests.set()

    async def run(self) -> NoReturn:
        """Work until cancelled, the first time at once."""
        await repeat(self._look, interval_seconds=self._pace.interval, wake=self._requests)

    async def _look(self) -> float | None:
        if self._dependencies.serving and (await self._drain() or not self._dependencies.serving):
            self._on_progress()
        return None if self._dependencies.serving else self._pace.away

    async def _drain(self) -> bool:
        """Work through what is due; return whether any vector was written or refused."""
        any_done, more = False, True
        while more:
            try:
                done, more = await self._dependencies.postgres.judge(self._process_batch)
            except WorkRefusedError as error:
                # PostgreSQL refuses to claim a batch of this size, or to note its results.
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    _log.warning(
                        "A batch of pending vectors is refused; smaller ones are tried",
                        extra={"error": str(error)},
                    )
                done, more = False, self._limit > 1
                self._limit = max(1, self._limit // 2)
            any_done = any_done or done
        return any_done

    async def _process_batch(self) -> tuple[bool, bool]:
        """Process one batch; return whether any vector was written or refused, and whether to go on."""
        started_ns, started = self._traces.now_ns(), time.monotonic()
        async with self._outbox.claim(self._limit) as claim:
            if not claim.rows:
                return False, False
            try:
                result = await self._write(claim)
            except WorkRefusedError as error:
                # The vectors' server serves, but this batch was too much for it.
                if len(claim.rows) == 1:
                    claim.delay(claim.rows, str(error), alone=True)
                self._limit = max(1, len(claim.rows) // 2)
                return False, True
            except TransientError as error:
                # The vectors' server is away. All rows are pending as before, and tried again later.
                claim.delay(claim.rows, str(error))
                return False, False
        for rows, state in ((claim.removed, WriteState.WRITTEN), (_refused(claim), WriteState.FAILED)):
            for row in rows:
                self._traces.vector_settled(row.uid, row.generation, state, started_ns)
        self._refusal = ""
        self._limit = self._next_limit(len(claim.rows), time.monotonic() - started)
        return result

    def _next_limit(self, rows: int, seconds: float) -> int:
        if seconds > self._pace.batch:
            return max(1, int(rows * self._pace.batch / seconds))
        return min(self._limit + self._limit // 8 + 1, _BATCH)

    async def _write(self, claim: Claim) -> tuple[bool, bool]:
        store = self._dependencies.vector_store
        hashes = list({row.text_hash for row in claim.rows})
        present = await store.attempt(lambda: self._vectors.existing(hashes), is_proof=False)
        embeddings = await self._embedder.embed(
            {row.text_hash: row.text for row in claim.rows if row.text_hash not in present},
            timeout_seconds=None,
            ask_again=any(row.attempts for row in claim.rows),
        )
        if embeddings.vectors:
            await store.attempt(lambda: self._vectors.insert(embeddings.vectors))
        # The vectors are committed before their rows leave the outbox. After a crash in between, this is
        # repeated without effect.
        written = [
            row for row in claim.rows if row.text_hash in present or row.text_hash in embeddings.vectors
        ]
        refused = [row for row in claim.rows if row.text_hash in embeddings.refused]
        claim.remove(written)
        claim.refuse(refused, embeddings.refused)
        metrics.OUTBOX_SETTLED.labels(metrics.SettledOutcome.WRITTEN).inc(len(written))
        metrics.OUTBOX_SETTLED.labels(metrics.SettledOutcome.FAILED).inc(len(refused))
        if embeddings.error is not None:
            claim.delay(_without(claim.rows, written + refused), str(embeddings.error))
        any_done = bool(written or refused)
        return any_done, any_done or embeddings.error is None


def _refused(claim: Claim) -> list[PendingVector]:
    return [row for row, _ in claim.refused]


def _without(rows: Sequence[PendingVector], done: Sequence[PendingVector]) -> list[PendingVector]:
    known = {_key(row) for row in done}
    return [row for row in rows if _key(row) not in known]


def _key(row: PendingVector) -> tuple[str, int, bytes]:
    return row.uid, row.generation, row.text_hash
