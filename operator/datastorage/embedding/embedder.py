"""Vectors of many texts at once, from the cache or in one call of the provider, and which texts have none."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from datastorage import metrics
from datastorage.embedding.cache import VectorCache
from datastorage.embedding.provider import EmbedderBusyError, Provider, fault_of
from datastorage.embedding.text import query_text
from datastorage.errors import (
    DataStorageError,
    EmbedderMisconfiguredError,
    EmbedderUnavailableError,
    EmbeddingRefusedError,
    InvalidQueryError,
    TransientError,
)
from datastorage.records.hashes import text_hash
from datastorage.records.vector import EmbeddingModel, Matrix, Vector
from datastorage.resilience.breaker import Breaker

_log = logging.getLogger(__name__)

# Every model makes a vector of this. One that does not is out of order, whatever it says of other texts.
_HARMLESS: Final = "the pod was restarted"
_REFUSED_SECONDS: Final = 600.0
_MAX_REFUSED: Final = 10_000
# How often in a row a text must fail, while the provider serves others, until it is refused.
_TRIES: Final = 3
# Failures of one call that are looked into. Far more than it takes to come from 500 texts to a single one.
_MAX_FAILURES: Final = 40
# A provider that is silent instead of failing takes its whole time for each of them.
_MAX_FAILING_SECONDS: Final = 60.0

_Texts = list[tuple[bytes, str]]


@dataclass(frozen=True)
class Embeddings:
    """What became of texts, by their hashes. Texts that are in neither are owed, because of ``error``."""

    vectors: dict[bytes, Vector]
    refused: dict[bytes, str]
    """Texts that have no vector and won't get one, and why."""
    error: EmbedderUnavailableError | None


class Embedder:
    """Makes vectors with one provider, behind a cache and a breaker."""

    def __init__(self, provider: Provider, cache: VectorCache, breaker: Breaker) -> None:
        """The breaker's own probe is ``probe``."""
        self._provider = provider
        self._cache = cache
        self._breaker = breaker
        self._known_refusals = _Refusals()

    @property
    def model(self) -> EmbeddingModel:
        """What the vectors come from."""
        return self._provider.model

    async def embed(
        self, texts: Mapping[bytes, str], *, patience_seconds: float | None, ask_again: bool = False
    ) -> Embeddings:
        """Return the vectors of texts that are given by their hashes. Raises nothing.

        A provider that takes longer than ``patience_seconds`` counts as away. None leaves it its own time;
        texts with which it fails while it serves others are then found, and refused: some with each call.
        ``ask_again``: try texts too that were refused not long ago.
        """
        vectors = await self._cache.get(list(texts))
        missing = {key: text for key, text in texts.items() if key not in vectors}
        refused = {} if ask_again else self._known_refusals.among(missing)
        call = _Call(self._provider, self._breaker, patience_seconds)
        error = await call.embed({key: text for key, text in missing.items() if key not in refused})
        await self._cache.set(call.vectors)
        vectors |= call.vectors
        self._known_refusals.forget(vectors)
        self._known_refusals.add(call.refused)
        return Embeddings(vectors, refused | call.refused, error)

    async def embed_query(self, text: str) -> Vector:
        """Return the vector of a question.

        Raises InvalidQueryError when it has none, EmbedderUnavailableError when it can't be had now.
        """
        words = query_text(text)
        if not words:
            raise InvalidQueryError("The question has no words to search for")
        key = text_hash(words)
        cached = (await self._cache.get([key])).get(key)
        if cached is not None:
            return cached
        try:
            row = (await _rows(self._provider, [words]))[0]
        except EmbeddingRefusedError as error:
            raise InvalidQueryError(f"The embedding model refuses this question: {error}") from error
        fault = fault_of(row)
        if fault:
            raise InvalidQueryError(f"The embedding model makes no use of this question: {fault}")
        vector = _own(row)
        await self._cache.set({key: vector})
        self._known_refusals.forget([key])
        return vector

    async def probe(self) -> None:
        """Return when the provider serves. Raises EmbedderUnavailableError while it does not."""
        await probe(self._provider)

    async def close(self) -> None:
        """Give back what the provider and the cache hold."""
        await self._provider.close()
        await self._cache.close()


class _OutOfTimeError(Exception):
    """The time is up while the provider serves well: it has to be asked too often."""


class _PartFailedError(Exception):
    """The provider failed with these texts, and served well right after."""

    def __init__(self, failure: EmbedderUnavailableError) -> None:
        self.failure = failure


class _Call:
    """The way of one batch's texts through the provider."""

    def __init__(self, provider: Provider, breaker: Breaker, patience_seconds: float | None) -> None:
        self.vectors: dict[bytes, Vector] = {}
        self.refused: dict[bytes, str] = {}
        self._provider = provider
        self._breaker = breaker
        self._patience_seconds = patience_seconds
        self._deadline = None if patience_seconds is None else _now() + patience_seconds
        self._first = True
        self._in_order = False
        self._began = _now()
        self._failures = 0
        self._tries = Counter[bytes]()

    async def embed(self, texts: Mapping[bytes, str]) -> EmbedderUnavailableError | None:
        """Sort the texts into ``vectors`` and ``refused``; return why some are in neither."""
        parts = [list(texts.items())] if texts else []
        try:
            while parts:
                parts += await self._embed(parts.pop())
        except _OutOfTimeError:
            return EmbedderUnavailableError("Finding out which texts the model refuses took too long")
        except EmbedderUnavailableError as error:
            return error
        except TransientError as error:  # the breaker's own
            return EmbedderUnavailableError(str(error))
        return None

    async def _embed(self, part: _Texts) -> list[_Texts]:
        """Embed these texts in one call; return what is to be tried again by itself."""
        try:
            rows = await self._ask([text for _, text in part])
        except EmbeddingRefusedError as error:
            await self._check_order()
            if len(part) > 1:
                return _halves(part)
            self._refuse(part[0][0], str(error))
            return []
        except _PartFailedError as error:
            return self._looked_into(part, error.failure)
        for (key, _), row in zip(part, rows, strict=True):
            fault = fault_of(row)
            if fault:
                await self._check_order()
                self._refuse(key, fault)
            else:
                self.vectors[key] = _own(row)
        return []

    def _looked_into(self, part: _Texts, error: EmbedderUnavailableError) -> list[_Texts]:
        """Return what is to be tried of texts with which the provider fails while it serves others.

        A service that answers "internal error" for one bad text would else keep all the others owed for ever.
        """
        self._failures += 1
        key = part[0][0]
        self._tries[key] += len(part) == 1
        if self._tries[key] >= _TRIES:
            self._refuse(key, f"{error}, with this text alone")
            return []
        # Something has come of the call by then. The next one goes on with the rest.
        late = _now() - self._began >= _MAX_FAILING_SECONDS and (self.vectors or self.refused)
        if late or self._failures >= _MAX_FAILURES:
            raise error
        return _halves(part) if len(part) > 1 else [part]

    async def _ask(self, texts: Sequence[str]) -> Matrix:
        answer = await self._breaker.attempt(lambda: self._answer(texts))
        if isinstance(answer, EmbedderUnavailableError):
            raise _PartFailedError(answer)
        return answer

    async def _answer(self, texts: Sequence[str]) -> Matrix | EmbedderUnavailableError:
        """Return the rows; or the failure, where these texts are to blame. Raises it where the provider is.

        To the breaker, a failure that is returned is none.
        """
        try:
            return await self._within_patience(texts)
        except EmbedderUnavailableError as error:
            # Who has little time does not spend it on finding out.
            if self._deadline is not None or (len(texts) == 1 and isinstance(error, EmbedderBusyError)):
                raise
            try:
                await probe(self._provider)
            except EmbedderUnavailableError:
                raise error from None
            return error

    async def _within_patience(self, texts: Sequence[str]) -> Matrix:
        first, self._first = self._first, False
        try:
            async with asyncio.timeout_at(self._deadline):
                return await _rows(self._provider, texts)
        except TimeoutError as error:
            if not first:
                raise _OutOfTimeError from error
            raise EmbedderUnavailableError(
                f"{self._provider.model} gave no answer within {self._patience_seconds:g} s"
            ) from error

    async def _check_order(self) -> None:
        """Raise EmbedderUnavailableError when the provider, not the text, is to blame.

        A wrong name of the model, or a broken graphics card, would else condemn every text for good.
        """
        if not self._in_order:
            await self._breaker.attempt(self._probe)
            self._in_order = True

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await probe(self._provider)
        except TimeoutError as error:
            raise _OutOfTimeError from error

    def _refuse(self, key: bytes, reason: str) -> None:
        self.refused[key] = reason
        metrics.EMBEDDED_TEXTS.labels("refused").inc()


class _Refusals:
    """Texts refused lately: one that comes with every batch must not cost calls with every batch."""

    def __init__(self) -> None:
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def among(self, keys: Iterable[bytes]) -> dict[bytes, str]:
        """Return those of the texts that are known to be refused, and why."""
        now, found = time.monotonic(), {}
        for key in keys:
            until, reason = self._refused.get(key, (now, ""))
            if until > now:
                found[key] = reason
        return found

    def forget(self, keys: Iterable[bytes]) -> None:
        """Forget what has a vector after all."""
        for key in keys:
            self._refused.pop(key, None)

    def add(self, refused: Mapping[bytes, str]) -> None:
        """Remember for a while."""
        until = time.monotonic() + _REFUSED_SECONDS
        for key, reason in refused.items():
            self._refused[key] = (until, reason)
            self._refused.move_to_end(key)
        while len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)


async def probe(provider: Provider) -> None:
    """Return when a provider serves. Raises EmbedderUnavailableError while it does not."""
    try:
        fault = fault_of((await _rows(provider, [_HARMLESS]))[0])
    except EmbeddingRefusedError as error:
        raise EmbedderMisconfiguredError(f"{provider.model} refuses even a harmless text: {error}") from error
    if fault:
        raise EmbedderUnavailableError(f"{provider.model} makes no vector of a harmless text: {fault}")


async def _rows(provider: Provider, texts: Sequence[str]) -> Matrix:
    """Ask the provider; return a matrix of the right shape."""
    try:
        with metrics.EMBEDDING_DURATION.time():
            rows = await provider.embed(texts)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite: not finite
            matrix = np.asarray(rows, dtype=np.float32)
    except DataStorageError:
        raise
    except Exception as error:
        # A fault of ours or of a library: it must cost vectors, never records.
        _log.exception("the embedding provider failed unexpectedly")
        raise EmbedderUnavailableError(
            f"{provider.model} failed unexpectedly ({type(error).__name__})"
        ) from error
    expected = (len(texts), provider.model.dimensions)
    if matrix.shape != expected:
        raise EmbedderUnavailableError(
            f"{provider.model} answered an array of shape {matrix.shape} instead of {expected}"
        )
    return matrix


def _halves(part: _Texts) -> list[_Texts]:
    """Return both halves, the first to be taken first."""
    half = len(part) // 2
    return [part[half:], part[:half]]


def _own(row: Vector) -> Vector:
    """Return a copy: a view would keep the whole batch in memory for as long as the cache keeps the row."""
    metrics.EMBEDDED_TEXTS.labels("success").inc()
    copy = row.copy()
    copy.setflags(write=False)
    return copy


def _now() -> float:
    return asyncio.get_running_loop().time()
