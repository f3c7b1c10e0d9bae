"""A provider that fails for some texts: the good ones get their vectors, and the bad ones are found."""

from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

import numpy as np
import pytest
import pytest_asyncio

from datastorage.embedding import Embedder, Embeddings, VectorCache
from datastorage.embedding.isolation import Limits
from datastorage.embedding.provider import EmbedderBusyError, probe
from datastorage.errors import EmbedderUnavailableError
from datastorage.metrics import Dependency
from datastorage.records.hashes import text_hash
from datastorage.records.vector import Matrix
from datastorage.resilience.breaker import Breaker
from harness.polling import eventually
from tests.support.embedding import MODEL, FakeProvider, vector_of
from tests.support.pace import AT_ONCE


class Fragile(FakeProvider):
    """Answers "internal error" for each call that has a bad text in it."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: Collection[str] = ()
        self.passes_after: int | None = None
        """The number of its failures after which it fails no more."""
        self.dies_after: int | None = None
        """The number of its failures after which it is away."""
        self.most_texts = 10_000
        """It is busy for a call with more."""
        self.failures = 0

    async def embed(self, texts: Sequence[str]) -> Matrix:
        rows = await super().embed(texts)
        if len(texts) > self.most_texts:
            raise EmbedderBusyError("The service received too many requests (429)")
        if self.failures == self.dies_after:
            raise EmbedderUnavailableError("The service can't be reached")
        if self.failures != self.passes_after and any(text in self.bad for text in texts):
            self.failures += 1
            raise EmbedderUnavailableError("The service answered with status 500")
        return rows


@pytest.fixture
def provider() -> Fragile:
    return Fragile()


@pytest_asyncio.fixture
async def breaker(provider: Fragile) -> AsyncIterator[Breaker]:
    made = Breaker(Dependency.EMBEDDER, partial(probe, provider), pace=AT_ONCE)
    yield made
    await made.close()


@pytest.fixture
def embedder(provider: Fragile, breaker: Breaker) -> Embedder:
    return Embedder(provider, VectorCache(MODEL), breaker)


async def embed(
    embedder: Embedder, texts: Sequence[str], *, timeout_seconds: float | None = None
) -> Embeddings:
    return await embedder.embed(
        {text_hash(text): text for text in texts}, timeout_seconds=timeout_seconds, ask_again=True
    )


def many(prefix: str, count: int) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def assert_vectors(embeddings: Embeddings, texts: Collection[str]) -> None:
    assert embeddings.vectors.keys() == {text_hash(text) for text in texts}
    for text in texts:
        np.testing.assert_array_equal(embeddings.vectors[text_hash(text)], vector_of(text))


def assert_refused(embeddings: Embeddings, texts: Collection[str]) -> None:
    reason = "The service answered with status 500, with this text alone"
    assert embeddings.refused == {text_hash(text): reason for text in texts}


@pytest.mark.parametrize("count", [0, 1, 2, 7, 499])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_one_text_that_it_fails_with_costs_no_other_its_vector(
    embedder: Embedder, provider: Fragile, breaker: Breaker, count: int, place: str
) -> None:
    good, provider.bad = many("good", count), {"bad"}
    where = {"first": 0, "middle": count // 2, "last": count}[place]
    embeddings = await embed(embedder, [*good[:where], "bad", *good[where:]])
    assert_vectors(embeddings, good)
    assert_refused(embeddings, ["bad"])
    assert embeddings.error is None
    assert (breaker.serving, breaker.reason) == (True, None)
    # Nine halvings, at both halves; three tries; the probe after each failure.
    assert len(provider.calls) <= 9 * 3 + 3 * 2


async def test_a_few_are_found_in_one_call(embedder: Embedder, provider: Fragile) -> None:
    good, bad = many("good", 497), many("bad", 3)
    provider.bad = bad
    embeddings = await embed(embedder, [bad[0], *good[:250], bad[1], *good[250:], bad[2]])
    assert_vectors(embeddings, good)
    assert_refused(embeddings, bad)
    assert embeddings.error is None


async def test_a_provider_that_fails_with_half_of_the_texts_gets_on_with_each_call(
    embedder: Embedder, provider: Fragile, breaker: Breaker
) -> None:
    good, provider.bad = many("good", 32), many("bad", 32)
    pending = [text for pair in zip(good, provider.bad, strict=True) for text in pair]
    refused: set[bytes] = set()
    rounds = 0
    while pending:
        provider.calls.clear()
        embeddings = await embed(embedder, pending)
        rounds += 1
        # As many calls that serve lie between the failures, and each failure has its probe.
        assert len(provider.calls) <= 3 * Limits().max_failures
        assert breaker.reason is None
        refused |= embeddings.refused.keys()
        left = [
            text for text in pending if text_hash(text) not in embeddings.vectors.keys() | embeddings.refused
        ]
        assert len(left) < len(pending)
        assert str(embeddings.error or "") == ("The service answered with status 500" if left else "")
        pending = left
    assert rounds > 1
    assert refused == {text_hash(text) for text in provider.bad}
    provider.bad = ()
    assert_vectors(await embed(embedder, good), good)


async def test_a_call_that_fails_slowly_ends_with_the_first_results(
    provider: Fragile, breaker: Breaker
) -> None:
    embedder = Embedder(provider, VectorCache(MODEL), breaker, limits=Limits(max_failing_seconds=0.0))
    provider.bad = many("bad", 4)
    first = await embed(embedder, ["good 0", *provider.bad[:3], "good 1", *provider.bad[3:]])
    assert first.vectors or first.refused
    assert str(first.error) == "The service answered with status 500"
    assert provider.failures < 3 + 3 * 3


async def test_the_write_path_does_not_look_for_bad_texts(
    embedder: Embedder, provider: Fragile, breaker: Breaker
) -> None:
    provider.bad = {"bad"}
    embeddings = await embed(embedder, ["good", "bad"], timeout_seconds=30.0)
    assert (embeddings.vectors, embeddings.refused) == ({}, {})
    assert str(embeddings.error) == "The service answered with status 500"
    assert provider.calls == [["good", "bad"]]
    assert not breaker.serving
    # The breaker's own probe closes it; the backfill's call ends the outage.
    await eventually(lambda: breaker.serving)
    assert breaker.reason is not None
    assert_refused(await embed(embedder, ["bad"]), ["bad"])
    assert breaker.reason is None


async def test_a_provider_that_is_away_condemns_no_text(
    embedder: Embedder, provider: Fragile, breaker: Breaker
) -> None:
    provider.failure = EmbedderUnavailableError("The service can't be reached")
    embeddings = await embed(embedder, many("good", 100))
    assert (embeddings.vectors, embeddings.refused) == ({}, {})
    assert str(embeddings.error) == "The service can't be reached"
    assert len(provider.calls) == 2
    assert not breaker.serving


@pytest.mark.parametrize("failures", range(1, 6))
async def test_a_provider_that_goes_away_meanwhile_condemns_no_text(
    embedder: Embedder, provider: Fragile, breaker: Breaker, failures: int
) -> None:
    """Three halvings and two tries of the bad one: the third never comes."""
    good, provider.bad, provider.dies_after = many("good", 7), {"bad"}, failures
    embeddings = await embed(embedder, ["bad", *good])
    assert embeddings.refused == {}
    assert isinstance(embeddings.error, EmbedderUnavailableError)
    assert not breaker.serving
    provider.bad, provider.dies_after = (), None
    await eventually(lambda: breaker.serving)
    assert_vectors(await embed(embedder, ["bad", *good]), ["bad", *good])


@pytest.mark.parametrize("failures", range(1, 6))
async def test_a_text_that_it_fails_with_for_a_moment_gets_its_vector(
    embedder: Embedder, provider: Fragile, failures: int
) -> None:
    good, provider.bad, provider.passes_after = many("good", 7), {"bad"}, failures
    embeddings = await embed(embedder, ["bad", *good])
    assert_vectors(embeddings, ["bad", *good])
    assert (embeddings.refused, embeddings.error) == ({}, None)


async def test_a_busy_provider_is_asked_for_less(embedder: Embedder, provider: Fragile) -> None:
    provider.most_texts = 4
    embeddings = await embed(embedder, many("good", 16))
    assert_vectors(embeddings, many("good", 16))
    assert embeddings.error is None


async def test_a_provider_too_busy_for_a_single_text_condemns_none(
    embedder: Embedder, provider: Fragile, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = provider.embed

    async def busy_but_for_the_probe(texts: Sequence[str]) -> Matrix:
        if any(text.startswith("long") for text in texts):
            raise EmbedderBusyError("The service received too many requests (429)")
        return await answer(texts)

    monkeypatch.setattr(provider, "embed", busy_but_for_the_probe)
    embeddings = await embed(embedder, many("long", 4))
    assert (embeddings.vectors, embeddings.refused) == ({}, {})
    assert isinstance(embeddings.error, EmbedderBusyError)
    assert not breaker.serving


async def test_a_text_that_was_refused_so_costs_no_call_for_a_while(
    embedder: Embedder, provider: Fragile
) -> None:
    provider.bad = {"bad"}
    await embed(embedder, ["bad"])
    provider.calls.clear()
    known = await embedder.embed({text_hash("bad"): "bad"}, timeout_seconds=30.0)
    assert_refused(known, ["bad"])
    assert provider.calls == []
