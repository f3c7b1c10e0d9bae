"""Embeds the texts of one batch, and finds those that the provider refuses or fails with.

A bad text must not prevent the vector of another text, and no text may be refused for a fault of the
provider.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datastorage import metrics
from datastorage.embedding.provider import EmbedderBusyError, Provider, fault_of, probe, rows_of
from datastorage.errors import EmbedderUnavailableError, EmbeddingRefusedError, TransientError
from datastorage.records.vector import Matrix, Vector
from datastorage.resilience.breaker import Breaker

_Texts = list[tuple[bytes, str]]


@dataclass(frozen=True)
class Limits:
    """Limits on the search for bad texts within one call."""

    tries: int = 3
    """The number of times in a row that a text must fail, while the provider serves others, until it is
    refused."""
    max_failures: int = 40
    """The number of failures after which the search ends. To find one text among 500 takes far fewer."""
    max_failing_seconds: float = 60.0
    """After this time a search that has found something ends: a silent provider takes its whole time-out for
    each failure."""


@dataclass(frozen=True)
class Embeddings:
    """The results for texts, by their hashes. A text in neither mapping is pending, because of ``error`` if
    there is one.
    """

    vectors: dict[bytes, Vector]
    refused: dict[bytes, str]
    """The reasons why texts have no vector and won't get one."""
    error: EmbedderUnavailableError | None


class _OutOfTimeError(Exception):
    """The time is up although the provider serves well: too many calls were necessary."""


class _ChunkFailedError(Exception):
    """The provider failed with these texts, and served well right afterwards."""

    def __init__(self, failure: EmbedderUnavailableError) -> None:
        self.failure = failure


class Isolation:
    """Sends one batch's texts to the provider. A chunk that fails is halved, down to single texts."""

    def __init__(
        self, provider: Provider, breaker: Breaker, *, timeout_seconds: float | None, limits: Limits
    ) -> None:
        """With ``timeout_seconds``, a provider that takes longer or fails counts as away. With None, only the
        provider's own time-out applies, and failing texts are searched for.
        """
        self._timed = _TimedProvider(provider, breaker, timeout_seconds)
        self._limits = limits
        self._vectors: dict[bytes, Vector] = {}
        self._refused: dict[bytes, str] = {}
        self._began = _now()
        self._failures = 0
        self._tries = Counter[bytes]()

    async def embed(self, texts: Mapping[bytes, str]) -> Embeddings:
        """Return the vectors of the texts. Raises nothing."""
        return Embeddings(self._vectors, self._refused, await self._embed_all(texts))

    async def _embed_all(self, texts: Mapping[bytes, str]) -> EmbedderUnavailableError | None:
        chunks = [list(texts.items())] if texts else []
        try:
            while chunks:
                chunks += await self._embed_chunk(chunks.pop())
        except _OutOfTimeError:
            return EmbedderUnavailableError("Finding the texts that the model refuses took too long")
        except EmbedderUnavailableError as error:
            return error
        except TransientError as error:  # from the breaker itself
            return EmbedderUnavailableError(str(error))
        return None

    async def _embed_chunk(self, chunk: _Texts) -> list[_Texts]:
        """Embed these texts in one call; return the smaller chunks to try if that has failed."""
        try:
            rows = await self._timed.ask([text for _, text in chunk])
        except EmbeddingRefusedError as error:
            await self._timed.check_provider()
            if len(chunk) > 1:
                return _halves(chunk)
            self._refuse(chunk[0][0], str(error))
            return []
        except _ChunkFailedError as error:
            return self._investigate(chunk, error.failure)
        for (key, _), row in zip(chunk, rows, strict=True):
            fault = fault_of(row)
            if fault:
                await self._timed.check_provider()
                self._refuse(key, fault)
            else:
                self._vectors[key] = embedded(row)
        return []

    def _investigate(self, chunk: _Texts, failure: EmbedderUnavailableError) -> list[_Texts]:
        """Return the chunks to try after the provider has failed with this one while it serves others.

        Without this search, a service that answers "internal error" for one bad text would leave all other
        texts without vectors for ever.
        """
        self._failures += 1
        key = chunk[0][0]
        self._tries[key] += len(chunk) == 1
        if self._tries[key] >= self._limits.tries:
            self._refuse(key, f"{failure}, with this text alone")
            return []
        # The search may end here once it has found something: the next call continues with the rest.
        is_late = _now() - self._began >= self._limits.max_failing_seconds
        if self._failures >= self._limits.max_failures or (is_late and (self._vectors or self._refused)):
            raise failure
        return _halves(chunk) if len(chunk) > 1 else [chunk]

    def _refuse(self, key: bytes, reason: str) -> None:
        self._refused[key] = reason
        metrics.EMBEDDED_TEXTS.labels(metrics.EmbeddedOutcome.REFUSED).inc()


class _TimedProvider:
    """Calls the provider for one batch: through the breaker, and within the batch's time."""

    def __init__(self, provider: Provider, breaker: Breaker, timeout_seconds: float | None) -> None:
        self._provider = provider
        self._breaker = breaker
        self._timeout_seconds = timeout_seconds
        self._deadline = None if timeout_seconds is None else _now() + timeout_seconds
        self._was_asked = False
        self._is_checked = False

    async def ask(self, texts: Sequence[str]) -> Matrix:
        """Return a row for each text.

        Raises _ChunkFailedError if the provider fails with these texts only, EmbeddingRefusedError if it
        refuses one of them, TransientError while it is away, and _OutOfTimeError.
        """
        answer = await self._breaker.attempt(lambda: self._answer(texts))
        if isinstance(answer, EmbedderUnavailableError):
            raise _ChunkFailedError(answer)
        return answer

    async def check_provider(self) -> None:
        """Raise TransientError when the provider, not the text, is at fault.

        Without this check, a wrong model name or a broken graphics card would lead to the refusal of all
        texts.
        """
        if not self._is_checked:
            await self._breaker.attempt(self._probe)
            self._is_checked = True

    async def _answer(self, texts: Sequence[str]) -> Matrix | EmbedderUnavailableError:
        """Return the rows, or the failure if these texts are at fault; raise it if the provider is.

        A failure that is returned does not open the breaker.
        """
        try:
            return await self._within_timeout(texts)
        except EmbedderUnavailableError as error:
            # With a deadline there is no time to look for the bad text.
            if self._deadline is not None or (len(texts) == 1 and isinstance(error, EmbedderBusyError)):
                raise
            try:
                await probe(self._provider)
            except EmbedderUnavailableError:
                raise error from None
            return error

    async def _within_timeout(self, texts: Sequence[str]) -> Matrix:
        is_first, self._was_asked = not self._was_asked, True
        try:
            async with asyncio.timeout_at(self._deadline):
                return await rows_of(self._provider, texts)
        except TimeoutError as error:
            if not is_first:
                raise _OutOfTimeError from error
            raise EmbedderUnavailableError(
                f"{self._provider.model} gave no answer within {self._timeout_seconds:g} s"
            ) from error

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await probe(self._provider)
        except TimeoutError as error:
            raise _OutOfTimeError from error


def embedded(row: Vector) -> Vector:
    """Count an embedded text; return a read-only copy of its row.

    A view in the cache would keep the rows of the whole batch in memory.
    """
    metrics.EMBEDDED_TEXTS.labels(metrics.EmbeddedOutcome.SUCCESS).inc()
    copy = row.copy()
    copy.setflags(write=False)
    return copy


def _halves(chunk: _Texts) -> list[_Texts]:
    """Return both halves, the first one last, since the caller pops chunks from the end."""
    half = len(chunk) // 2
    return [chunk[half:], chunk[:half]]


def _now() -> float:
    return asyncio.get_running_loop().time()
