"""The embedder: one call per batch, no wrong vector, and no text refused for a fault of the provider."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from datastorage import metrics
from datastorage.embedding import Embedder, Embeddings, VectorCache
from datastorage.embedding.embedder import RefusalMemory
from datastorage.embedding.provider import probe
from datastorage.errors import EmbedderUnavailableError, EmbeddingRefusedError, InvalidQueryError
from datastorage.metrics import Dependency
from datastorage.records.hashes import text_hash
from datastorage.resilience.breaker import Breaker
from harness.polling import eventually
from tests.support.embedding import DIMENSIONS, MODEL, FakeProvider, vector_of
from tests.support.pace import AT_ONCE, NEVER

PATIENCE = 30.0  # never reached
IMPATIENCE = 0.2  # a call has begun by then on a busy machine, too


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest_asyncio.fixture
async def breaker(provider: FakeProvider) -> AsyncIterator[Breaker]:
    """A breaker that probes at once."""
    made = Breaker(Dependency.EMBEDDER, partial(probe, provider), pace=AT_ONCE)
    yield made
    await made.close()


@pytest.fixture
def cache() -> VectorCache:
    return VectorCache(MODEL)


@pytest_asyncio.fixture
async def embedder(provider: FakeProvider, cache: VectorCache, breaker: Breaker) -> AsyncIterator[Embedder]:
    made = Embedder(provider, cache, breaker)
    yield made
    await made.close()


def forgetful(provider: FakeProvider, breaker: Breaker) -> Embedder:
    """Return an embedder whose cache keeps a single vector."""
    return Embedder(provider, VectorCache(MODEL, memory_bytes=700), breaker)


def hashed(*texts: str) -> dict[bytes, str]:
    return {text_hash(text): text for text in texts}


async def embed(embedder: Embedder, *texts: str, timeout_seconds: float | None = PATIENCE) -> Embeddings:
    return await embedder.embed(hashed(*texts), timeout_seconds=timeout_seconds)


def assert_vectors(embeddings: Embeddings, *texts: str) -> None:
    assert embeddings.vectors.keys() == hashed(*texts).keys()
    for text in texts:
        np.testing.assert_array_equal(embeddings.vectors[text_hash(text)], vector_of(text))


def assert_refused(embeddings: Embeddings, *texts: str) -> None:
    assert embeddings.refused.keys() == hashed(*texts).keys()


def many(prefix: str, count: int) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def value(metric: Any, *labels: str) -> float:
    return float((metric.labels(*labels) if labels else metric)._value.get())


async def test_all_texts_of_a_batch_go_in_one_call(embedder: Embedder, provider: FakeProvider) -> None:
    texts = many("event", 500)
    embeddings = await embed(embedder, *texts)
    assert_vectors(embeddings, *texts)
    assert embeddings.refused == {}
    assert embeddings.error is None
    assert provider.calls == [texts]


async def test_a_text_that_was_embedded_before_costs_no_call(
    embedder: Embedder, provider: FakeProvider
) -> None:
    await embed(embedder, "a", "b")
    assert_vectors(await embed(embedder, "b", "c"), "b", "c")
    assert_vectors(await embed(embedder, "a", "b", "c"), "a", "b", "c")
    assert provider.calls == [["a", "b"], ["c"]]


async def test_nothing_to_embed_costs_no_call(embedder: Embedder, provider: FakeProvider) -> None:
    assert await embed(embedder) == Embeddings({}, {}, None)
    assert provider.calls == []


async def test_an_absent_provider_leaves_all_pending_and_is_left_alone(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker
) -> None:
    provider.failure = EmbedderUnavailableError("The service can't be reached")
    embeddings = await embed(embedder, "a", "b")
    assert embeddings.vectors == {}
    assert embeddings.refused == {}
    assert str(embeddings.error) == "The service can't be reached"
    again = await embed(embedder, "c")
    assert isinstance(again.error, EmbedderUnavailableError)
    assert "can't be reached" in str(again.error)
    assert ["c"] not in provider.calls
    provider.failure = None
    await eventually(lambda: breaker.serving)
    assert_vectors(await embed(embedder, "a", "b", "c"), "a", "b", "c")


async def test_cached_vectors_are_available_while_the_provider_is_away(
    embedder: Embedder, provider: FakeProvider
) -> None:
    await embed(embedder, "known")
    provider.failure = EmbedderUnavailableError("away")
    embeddings = await embed(embedder, "known", "new")
    assert_vectors(embeddings, "known")
    assert embeddings.refused == {}
    assert embeddings.error is not None


async def test_a_slow_provider_counts_as_away_and_its_call_is_ended(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker
) -> None:
    provider.never_answers = True
    embeddings = await embed(embedder, "a", timeout_seconds=IMPATIENCE)
    assert str(embeddings.error) == "fake/tiny gave no answer within 0.2 s"
    assert provider.cancelled == 1
    assert not breaker.serving


async def test_without_a_bound_the_provider_has_its_own_time(
    embedder: Embedder, provider: FakeProvider
) -> None:
    provider.failure = EmbedderUnavailableError("The service gave no answer within 10 s")
    embeddings = await embed(embedder, "a", timeout_seconds=None)
    assert str(embeddings.error) == "The service gave no answer within 10 s"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("poison", [0, 1, 2])
async def test_refused_texts_are_found_and_the_others_get_their_vectors(
    embedder: Embedder, provider: FakeProvider, count: int, poison: int
) -> None:
    good, bad = many("good", count), many("bad", poison)
    provider.refused = set(bad)
    embeddings = await embed(embedder, *bad[:1], *good, *bad[1:])
    assert_vectors(embeddings, *good)
    assert_refused(embeddings, *bad)
    assert embeddings.error is None


async def test_a_text_that_was_refused_lately_costs_no_call(
    embedder: Embedder, provider: FakeProvider
) -> None:
    provider.refused = {"bad"}
    await embed(embedder, "a", "bad")
    provider.calls.clear()
    embeddings = await embed(embedder, "b", "bad")
    assert_vectors(embeddings, "b")
    assert_refused(embeddings, "bad")
    assert provider.calls == [["b"]]


async def test_a_text_that_was_refused_lately_may_be_asked_again(
    embedder: Embedder, provider: FakeProvider
) -> None:
    provider.refused = {"bad"}
    await embed(embedder, "bad")
    provider.refused = set()
    embeddings = await embedder.embed(hashed("bad"), timeout_seconds=PATIENCE, ask_again=True)
    assert_vectors(embeddings, "bad")
    assert embeddings.refused == {}


async def test_a_refusal_is_forgotten_after_a_while(
    provider: FakeProvider, cache: VectorCache, breaker: Breaker
) -> None:
    embedder = Embedder(provider, cache, breaker, memory=RefusalMemory(seconds=0.0))
    provider.refused = {"bad"}
    await embed(embedder, "bad")
    provider.refused = set()
    assert_vectors(await embed(embedder, "bad"), "bad")


async def test_a_known_refusal_is_forgotten_with_the_vector(provider: FakeProvider, breaker: Breaker) -> None:
    embedder = forgetful(provider, breaker)
    provider.refused = {"bad"}
    await embed(embedder, "bad")
    provider.refused = set()
    await embedder.embed(hashed("bad"), timeout_seconds=PATIENCE, ask_again=True)
    again = await embed(embedder, "bad")
    assert_vectors(again, "bad")
    assert again.refused == {}
    # It is not asked again either if the cache has lost the vector.
    await embed(embedder, "another")
    lost = await embed(embedder, "bad")
    assert_vectors(lost, "bad")
    assert lost.refused == {}


async def test_a_text_with_a_vector_of_another_replica_is_not_refused(
    embedder: Embedder, provider: FakeProvider, cache: VectorCache
) -> None:
    provider.refused = {"bad"}
    await embed(embedder, "bad")
    await cache.set({text_hash("bad"): vector_of("bad")})
    embeddings = await embed(embedder, "bad")
    assert_vectors(embeddings, "bad")
    assert embeddings.refused == {}


async def test_a_refusal_is_forgotten_when_the_text_is_asked_as_a_question(
    provider: FakeProvider, breaker: Breaker
) -> None:
    embedder = forgetful(provider, breaker)
    provider.refused = {"bad"}
    await embed(embedder, "bad")
    provider.refused = set()
    await embedder.embed_query("bad")
    await embed(embedder, "another")
    assert (await embed(embedder, "bad")).refused == {}


async def test_a_bounded_number_of_refusals_is_remembered(
    provider: FakeProvider, cache: VectorCache, breaker: Breaker
) -> None:
    embedder = Embedder(provider, cache, breaker, memory=RefusalMemory(max_texts=3))
    provider.refused = set(many("bad", 10))
    await embed(embedder, *many("bad", 10))
    provider.calls.clear()
    await embed(embedder, *many("bad", 10))
    assert len(provider.refused.intersection(provider.calls[0])) == 7


async def test_a_provider_that_refuses_everything_condemns_no_text(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker
) -> None:
    provider.failure = EmbeddingRefusedError("The service refuses the text (400)")
    embeddings = await embed(embedder, *many("event", 100))
    assert embeddings.vectors == {}
    assert embeddings.refused == {}
    assert "refuses even a harmless text" in str(embeddings.error)
    assert len(provider.calls) == 2
    assert not breaker.serving


async def test_time_spent_on_finding_refused_texts_is_bounded_and_no_outage(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker
) -> None:
    texts = many("event", 64)

    async def refuse_then_stall(asked: Iterable[str]) -> Any:
        asked = list(asked)
        provider.calls.append(asked)
        if len(asked) == 1 and asked[0] not in texts:
            return np.ones((1, DIMENSIONS))
        if len(asked) == 64:
            raise EmbeddingRefusedError("The service refuses the text (400)")
        return await asyncio.Event().wait()

    provider.embed = refuse_then_stall  # type: ignore[method-assign,assignment]
    embeddings = await embed(embedder, *texts, timeout_seconds=IMPATIENCE)
    assert embeddings.vectors == {}
    assert embeddings.refused == {}
    assert "took too long" in str(embeddings.error)
    assert breaker.serving


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (np.full(DIMENSIONS, np.nan), "not finite"),
        (np.array([1, np.inf] + [1] * (DIMENSIONS - 2)), "not finite"),
        (np.full(DIMENSIONS, 1e300), "not finite"),
        (np.zeros(DIMENSIONS), "zero vector"),
        (np.full(DIMENSIONS, 1e-8), "zero vector"),
        (np.full(DIMENSIONS, 1e20), "too large"),
    ],
)
async def test_a_row_that_is_no_vector_is_refused_and_the_others_kept(
    embedder: Embedder, provider: FakeProvider, row: Any, reason: str
) -> None:
    provider.rows["bad"] = row
    embeddings = await embed(embedder, "a", "bad", "b")
    assert_vectors(embeddings, "a", "b")
    assert embeddings.refused == {text_hash("bad"): reason}
    assert embeddings.error is None
    assert_vectors(await embed(embedder, "a", "bad"), "a")  # nor is it in the cache


async def test_a_provider_that_makes_no_vectors_at_all_condemns_no_text(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker
) -> None:
    provider.answer = lambda rows: rows * np.float32(np.nan)
    embeddings = await embed(embedder, "a", "b")
    assert embeddings.vectors == {}
    assert embeddings.refused == {}
    assert "makes no vector of a harmless text: not finite" in str(embeddings.error)
    assert not breaker.serving


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows[:-1],
        lambda rows: np.vstack([rows, rows]),
        lambda rows: rows[:, :-1],
        lambda rows: rows[0],
        lambda _: None,
        lambda _: [["no", "numbers"]],
    ],
)
async def test_an_answer_of_the_wrong_shape_is_no_answer(
    embedder: Embedder, provider: FakeProvider, breaker: Breaker, answer: Any
) -> None:
    provider.answer = answer
    embeddings = await embed(embedder, "a", "b")
    assert embeddings.vectors == {}
    assert embeddings.refused == {}
    assert isinstance(embeddings.error, EmbedderUnavailableError)
    provider.answer = lambda rows: rows
    await eventually(lambda: breaker.serving)
    assert_vectors(await embed(embedder, "a", "b"), "a", "b")


async def test_a_fault_of_the_provider_s_own_costs_vectors_only(
    embedder: Embedder, provider: FakeProvider
) -> None:
    provider.failure = ZeroDivisionError()
    embeddings = await embed(embedder, "a")
    assert str(embeddings.error) == "fake/tiny failed unexpectedly (ZeroDivisionError)"


async def test_vectors_are_kept_by_themselves_and_can_t_be_changed(embedder: Embedder) -> None:
    vectors = (await embed(embedder, "a", "b")).vectors
    for vector in vectors.values():
        assert vector.base is None, "a view keeps its whole batch in memory"
        assert vector.dtype == np.float32
        assert not vector.flags.writeable


async def test_calls_and_texts_are_counted(embedder: Embedder, provider: FakeProvider) -> None:
    calls = metrics.EMBEDDING_DURATION._sum.get()
    success, refused = value(metrics.EMBEDDED_TEXTS, "success"), value(metrics.EMBEDDED_TEXTS, "refused")
    provider.rows["bad"] = np.zeros(DIMENSIONS, np.float32)
    await embed(embedder, "a", "bad", "b")
    assert metrics.EMBEDDING_DURATION._sum.get() > calls
    assert value(metrics.EMBEDDED_TEXTS, "success") == success + 2
    assert value(metrics.EMBEDDED_TEXTS, "refused") == refused + 1


async def test_a_question_has_the_vector_of_its_text(embedder: Embedder, provider: FakeProvider) -> None:
    vector = await embedder.embed_query("  what was   killed? ")
    np.testing.assert_array_equal(vector, vector_of("what was killed?"))
    await embedder.embed_query("what was killed?")
    assert provider.calls == [["what was killed?"]]


async def test_a_question_is_asked_while_the_breaker_is_open(
    provider: FakeProvider, cache: VectorCache
) -> None:
    breaker = Breaker(Dependency.EMBEDDER, partial(probe, provider), pace=NEVER)
    embedder = Embedder(provider, cache, breaker)
    provider.failure = EmbedderUnavailableError("away")
    await embed(embedder, "a")
    provider.failure = None
    np.testing.assert_array_equal(await embedder.embed_query("b"), vector_of("b"))
    assert not breaker.serving
    await breaker.close()


@pytest.mark.parametrize("text", ["", " \n", "\0", "?!"])
async def test_an_empty_question_is_refused(embedder: Embedder, provider: FakeProvider, text: str) -> None:
    with pytest.raises(InvalidQueryError, match="no words"):
        await embedder.embed_query(text)
    assert provider.calls == []


async def test_a_refused_question_is_reported_as_refused(embedder: Embedder, provider: FakeProvider) -> None:
    provider.refused = {"bad"}
    with pytest.raises(InvalidQueryError, match="refuses this question"):
        await embedder.embed_query("bad")


async def test_a_question_without_a_vector_is_reported(embedder: Embedder, provider: FakeProvider) -> None:
    provider.rows["bad"] = np.zeros(DIMENSIONS, np.float32)
    for _ in range(2):  # the second time it is not in the cache either
        with pytest.raises(InvalidQueryError, match="zero vector"):
            await embedder.embed_query("bad")


async def test_a_question_to_an_absent_provider_says_so(embedder: Embedder, provider: FakeProvider) -> None:
    provider.failure = EmbedderUnavailableError("The service can't be reached")
    with pytest.raises(EmbedderUnavailableError, match="can't be reached"):
        await embedder.embed_query("a")


async def test_the_probe_asks_the_provider_each_time(provider: FakeProvider) -> None:
    await probe(provider)
    await probe(provider)
    assert len(provider.calls) == 2
    assert len(provider.calls[0]) == 1


@pytest.mark.parametrize(
    "failure", [EmbedderUnavailableError("away"), EmbeddingRefusedError("no"), ZeroDivisionError()]
)
async def test_the_probe_fails_in_the_way_a_breaker_understands(
    provider: FakeProvider, failure: Exception
) -> None:
    provider.failure = failure
    with pytest.raises(EmbedderUnavailableError):
        await probe(provider)


async def test_closing_closes_the_provider(embedder: Embedder, provider: FakeProvider) -> None:
    await embedder.close()
    assert provider.closed
