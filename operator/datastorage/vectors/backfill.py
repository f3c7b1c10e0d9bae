"""Pays what is owed: makes the vectors of what waits in the outbox.

The outbox is in PostgreSQL, so that it survives every crash, and any replica may go on with it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from datastorage import metrics
from datastorage.embedding import Embeddings
from datastorage.errors import TransientError, WorkRefusedError
from datastorage.records.vector import Vector
from datastorage.resilience.breaker import Breaker
from datastorage.storage.outbox import Claim, OutboxDepth, OutboxState, PendingVector
from datastorage.vectors.promote import Lifted

_log = logging.getLogger(__name__)

_BATCH: Final = 500
# How often the outbox is looked at without being asked: other replicas and people add to it too.
_POLL_SECONDS: Final = 5.0
# While a dependency is away this costs nothing: its breaker alone asks for it.
_AWAY_SECONDS: Final = 0.5
# Between two looks at the objects, at least; when looks find nothing, at most.
_LIFT_PAUSE_SECONDS: Final = 1.0
_MAX_LIFT_PAUSE_SECONDS: Final = 30.0
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
    """Drains the outbox on request and at intervals, then lifts the objects whose vectors are paid."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        embedder: Embedder,
        vectors: Vectors,
        dependencies: Dependencies,
        lift: Callable[[], Awaitable[Lifted]],
        lift_seconds: float,
    ) -> None:
        """``lift`` (promote.py) is called after something was written or dropped, here or by others, when
        ``lift_soon`` asks for it, and every ``lift_seconds``.
        """
        self._outbox = outbox
        self._embedder = embedder
        self._vectors = vectors
        self._dependencies = dependencies
        self._lift = lift
        self._lift_seconds = lift_seconds
        self._requested = asyncio.Event()
        self._lift_at = 0.0
        self._lifted_at = -_MAX_LIFT_PAUSE_SECONDS
        self._lift_pause = _LIFT_PAUSE_SECONDS
        # How many are claimed at once: fewer after that was too much.
        self._limit = _BATCH
        # Why a batch was refused last, so that each reason is logged once.
        self._refusal = ""
        self._pending = 0
        self._counted_at = -_COUNT_SECONDS

    def request(self) -> None:
        """Ask for a look at the outbox soon."""
        self._requested.set()

    def lift_soon(self) -> None:
        """Ask for a look at the objects, since one has just been told that its vector is owed.

        It may have been paid before the status said so. While a dependency is away nothing is paid.
        """
        if not self._dependencies.serving:
            return
        before = self._lift_at
        self._want_lift()
        if self._lift_at < before:  # once for each look, however many objects ask for it
            self._requested.set()

    async def run(self) -> None:
        """Work until cancelled, the first time at once."""
        while True:
            self._requested.clear()
            if self._dependencies.serving and await self._drain():
                self._want_lift()
            await self._count()
            if time.monotonic() >= self._lift_at:
                await self._lift_now()
            poll = _POLL_SECONDS if self._dependencies.serving else _AWAY_SECONDS
            try:
                async with asyncio.timeout(max(0.0, min(poll, self._lift_at - time.monotonic()))):
                    await self._requested.wait()
            except TimeoutError:
                pass

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
            self._want_lift()
        self._pending = pending
        for state, depth in depths.items():
            metrics.OUTBOX_DEPTH.labels(state.value).set(depth.depth)
        metrics.OUTBOX_AGE.set(depths[OutboxState.PENDING].oldest_seconds)

    def _want_lift(self) -> None:
        self._lift_at = min(self._lift_at, self._lifted_at + self._lift_pause)

    async def _lift_now(self) -> None:
        self._lift_at = math.inf
        lifted = await self._lift()
        # What was told meanwhile may be of an object that had been looked at before.
        asked_meanwhile = self._lift_at < math.inf
        self._lifted_at = time.monotonic()
        # A look lists objects. While looks find nothing, they become rarer.
        self._lift_pause = (
            _LIFT_PAUSE_SECONDS if lifted.announced else min(2 * self._lift_pause, _MAX_LIFT_PAUSE_SECONDS)
        )
        regular = self._lift_seconds * random.uniform(0.8, 1.2)  # noqa: S311  # jitter is no secret
        soon = asked_meanwhile or not lifted.complete
        self._lift_at = self._lifted_at + (self._lift_pause if soon else regular)


def _rest(rows: Sequence[PendingVector], *done: Sequence[PendingVector]) -> list[PendingVector]:
    known = {_key(row) for part in done for row in part}
    return [row for row in rows if _key(row) not in known]


def _key(row: PendingVector) -> tuple[str, int, bytes]:
    return row.uid, row.generation, row.text_hash
