"""The sentence model in numpy, and the server that offers it through OpenAI's API."""

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import minilm, modelserver
from harness.minilm import Array, MiniLM
from harness.modelserver import EmbeddingsServer

SHORT = "OOMKilled x5, limit 256Mi->512Mi"
LONG = "the consumer fell behind while the broker was rebalancing its partitions " * 12
TEXTS = [SHORT, LONG, "certificate of the ingress expired", "Zertifikat läuft ab 期限切れ 🚨", "."]

# Single precision, summed in another order.
ROUNDING = 1e-6

# Of sentence-transformers 2.7.0 on PyTorch 1.13.1: the first components of SHORT's vector.
REFERENCE = [0.0581189, 0.0557261, 0.0153476, -0.0393148, 0.016598, -0.0821608, 0.0169785, 0.0214399]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return minilm.shared()


def test_gelu_is_within_its_error() -> None:
    values = np.linspace(-12, 12, 100_001).astype(np.float32)
    exact = [float(value) * 0.5 * (1 + math.erf(float(value) / math.sqrt(2))) for value in values]
    assert np.abs(minilm.gelu(values.copy()) - exact).max() < 1e-6


def test_gelu_has_no_seams_between_its_blocks() -> None:
    # Private: the seams lie between blocks of this size.
    values = np.full((3, minilm._GELU_BLOCK), 0.7, np.float32)
    assert np.unique(minilm.gelu(values)).size == 1


def test_the_vector_is_that_of_the_reference(model: MiniLM) -> None:
    assert np.abs(model.embed([SHORT])[0, : len(REFERENCE)] - REFERENCE).max() < ROUNDING


def test_vectors_have_length_one(model: MiniLM) -> None:
    vectors = model.embed([*TEXTS, "", "   "])
    assert vectors.shape == (len(TEXTS) + 2, minilm.DIMENSION)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < ROUNDING


def test_no_texts_have_no_vectors(model: MiniLM) -> None:
    assert model.embed([]).shape == (0, minilm.DIMENSION)


def test_a_vector_does_not_depend_on_its_neighbours(model: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert np.abs(model.embed(TEXTS) - alone).max() < ROUNDING
    assert np.abs(model.embed(TEXTS[::-1])[::-1] - alone).max() < ROUNDING
    monkeypatch.setattr(
        minilm, "_BATCH_TOKENS", 1_000_000
    )  # so that the short ones are padded to the longest
    assert np.abs(model.embed(TEXTS) - alone).max() < ROUNDING


def test_only_the_first_256_tokens_count(model: MiniLM) -> None:
    begin = "word " * (minilm.MAX_TOKENS - 2)
    (tokens,) = model.tokenize([begin + "tail"])
    assert len(tokens) == minilm.MAX_TOKENS
    first, second = model.embed([begin + "certificate expired", begin + "out of memory"])
    assert np.abs(first - second).max() < ROUNDING


@pytest.mark.parametrize(
    ("text", "paraphrase", "unrelated"),
    [
        (
            "the pod was killed for its memory",
            "container OOMKilled",
            "the certificate of the ingress expired",
        ),
        ("roll back the release", "we reverted to the previous version", "disk of the node is full"),
        ("consumer lag is growing", "messages pile up in the queue", "the name server does not answer"),
        ("TLS certificate expired", "x509: not valid after yesterday", "too many database connections"),
    ],
)
def test_a_paraphrase_is_nearer_than_something_else(
    model: MiniLM, text: str, paraphrase: str, unrelated: str
) -> None:
    vector, near, far = model.embed([text, paraphrase, unrelated])
    assert vector @ near > vector @ far + 0.05


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, minilm.MAX_TOKENS), max_size=300))
def test_batches_hold_every_text_once_and_are_bounded(lengths: list[int]) -> None:
    # Private: the batches show in no vector, and only in the memory that they take.
    batches = list(minilm._batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert all(
        len(batch) * length <= minilm._BATCH_TOKENS for batch, length in zip(batches, longest, strict=True)
    )
    assert all(before <= after for before, after in pairwise(longest))


KEY = "sk-test-4711"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddingsServer]:
    async with EmbeddingsServer(key=KEY) as running:
        yield running


async def ask(
    server: EmbeddingsServer, body: Any, *, key: str | None = KEY, path: str = "/embeddings"
) -> tuple[int, Any]:
    """Return status and JSON of the answer; a body of bytes is sent as it is."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    sent: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + path, headers=headers, **sent) as response,
    ):
        return response.status, await response.json()


def vectors(answer: Any) -> Array:
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


async def test_the_answer_is_the_models(server: EmbeddingsServer, model: MiniLM) -> None:
    status, answer = await ask(server, {"model": minilm.NAME, "input": TEXTS})
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", minilm.NAME)
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    assert {item["object"] for item in answer["data"]} == {"embedding"}
    tokens = sum(map(len, model.tokenize(TEXTS)))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert np.abs(vectors(answer) - model.embed(TEXTS)).max() < ROUNDING
    assert (server.requests, server.texts) == (1, len(TEXTS))


async def test_one_text_may_stand_alone(server: EmbeddingsServer, model: MiniLM) -> None:
    _, answer = await ask(server, {"model": minilm.NAME, "input": SHORT})
    assert np.abs(vectors(answer) - model.embed([SHORT])).max() < ROUNDING


async def test_base64_is_little_endian_single_precision(server: EmbeddingsServer, model: MiniLM) -> None:
    _, answer = await ask(server, {"model": minilm.NAME, "input": SHORT, "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert np.abs(vector - model.embed([SHORT])[0]).max() < ROUNDING


async def test_fewer_dimensions_are_scaled_to_length_one(server: EmbeddingsServer, model: MiniLM) -> None:
    _, answer = await ask(server, {"model": minilm.NAME, "input": SHORT, "dimensions": 64})
    begin = model.embed([SHORT])[:, :64]
    assert np.abs(vectors(answer) - begin / np.linalg.norm(begin)).max() < ROUNDING


async def test_requests_at_the_same_time_are_all_answered(server: EmbeddingsServer) -> None:
    answers = await asyncio.gather(
        *(ask(server, {"model": minilm.NAME, "input": f"pod {number} restarted"}) for number in range(8))
    )
    assert [status for status, _ in answers] == [200] * 8
    assert len({answer["data"][0]["embedding"][0] for _, answer in answers}) == 8


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        ([], 400, "object"),
        ({"input": SHORT}, 400, "model"),
        ({"model": "gpt-7", "input": SHORT}, 404, "model"),
        ({"model": minilm.NAME}, 400, "input"),
        ({"model": minilm.NAME, "input": []}, 400, "input"),
        ({"model": minilm.NAME, "input": ""}, 400, "empty"),
        ({"model": minilm.NAME, "input": [SHORT, ""]}, 400, "empty"),
        ({"model": minilm.NAME, "input": [SHORT, 7]}, 400, "input"),
        ({"model": minilm.NAME, "input": "\ud800"}, 400, "Unicode"),
        ({"model": minilm.NAME, "input": ["x"] * 2049}, 400, "2048"),
        ({"model": minilm.NAME, "input": SHORT, "dimensions": 385}, 400, "384"),
        ({"model": minilm.NAME, "input": SHORT, "dimensions": 0}, 400, "384"),
        ({"model": minilm.NAME, "input": SHORT, "dimensions": True}, 400, "384"),
        ({"model": minilm.NAME, "input": SHORT, "encoding_format": "hex"}, 400, "base64"),
        ({"model": minilm.NAME, "input": SHORT, "encoding_format": []}, 400, "base64"),
    ],
)
async def test_a_bad_request_is_refused_as_openai_does(
    server: EmbeddingsServer, body: Any, status: int, word: str
) -> None:
    got, answer = await ask(server, body)
    assert got == status
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert word in answer["error"]["message"]
    assert server.requests == 0


@pytest.mark.parametrize(
    ("key", "code"), [(None, None), ("wrong", "invalid_api_key"), ("schlüssel", "invalid_api_key")]
)
async def test_without_the_key_there_is_no_answer(
    server: EmbeddingsServer, key: str | None, code: str | None
) -> None:
    status, answer = await ask(server, {"model": minilm.NAME, "input": SHORT}, key=key)
    assert (status, answer["error"]["code"]) == (401, code)
    assert KEY not in str(answer)


async def test_a_server_without_a_key_asks_for_none() -> None:
    async with EmbeddingsServer() as server:
        status, _ = await ask(server, {"model": minilm.NAME, "input": SHORT}, key=None)
        assert status == 200


async def test_other_addresses_and_too_much_are_errors_in_json(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, answer = await ask(server, {}, path="/completions")
    assert (status, answer["error"]["message"]) == (404, "Not Found")
    monkeypatch.setattr(modelserver, "MAX_BODY_BYTES", 1000)
    async with EmbeddingsServer() as small:
        status, answer = await ask(small, {"model": minilm.NAME, "input": "x" * 2000})
        assert (status, answer["error"]["type"]) == (413, "invalid_request_error")


async def test_a_taken_port_is_an_error(server: EmbeddingsServer) -> None:
    port = int(server.url.rpartition(":")[2].removesuffix("/v1"))
    with pytest.raises(OSError, match="address"):
        async with EmbeddingsServer(port=port):
            pass
