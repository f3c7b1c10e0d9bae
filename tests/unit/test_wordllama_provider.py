"""The model inside the program: the library's vectors, in order, without network and with little memory."""

import asyncio
import json
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from datastorage.embedding import Provider, build_provider
from datastorage.embedding import wordllama as wordllama_module
from datastorage.embedding.wordllama import Limits, WordLlamaProvider
from datastorage.errors import ConfigurationError, EmbedderUnavailableError
from datastorage.secrets import Origin
from datastorage.settingsgroups import EmbeddingSettings

TEXTS = [
    "patch deployment. Execution completed. Memory limit of checkout raised from 256Mi to 512Mi",
    "restart",
    "",
    "ünïcödé 🧨 \u2028 日本語",
    "the pod was killed because it was out of memory " * 40,
    "0" * 2000,
    "a",
    "NUL\0inside",
]


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[WordLlamaProvider]:
    made = WordLlamaProvider()
    yield made
    await made.close()


async def test_the_vectors_are_those_of_the_library(provider: WordLlamaProvider) -> None:
    texts = [text for text in TEXTS if text]
    np.testing.assert_allclose(await provider.embed(texts), _vectors_of_the_library(texts), atol=2e-6)


def _vectors_of_the_library(texts: list[str]) -> list[list[float]]:
    """Ask the library in a process of its own: it changes the logging of the one that loads it."""
    program = """
import json, sys
from pathlib import Path
import wordllama
model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
print(json.dumps([model.embed([text], norm=True)[0].tolist() for text in json.load(sys.stdin)]))
"""
    vectors: list[list[float]] = json.loads(_run(program, json.dumps(texts)))
    return vectors


async def test_a_row_is_of_its_own_text_whatever_the_batch(provider: WordLlamaProvider) -> None:
    together = await provider.embed(TEXTS)
    assert together.shape == (len(TEXTS), 256)
    assert together.dtype == np.float32
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose((await provider.embed([text]))[0], row, atol=1e-6)


async def test_chunks_come_back_in_order(provider: WordLlamaProvider) -> None:
    texts = [f"event {number} " * (1 + number % 7) for number in range(100)]
    whole = await provider.embed(texts)
    chunked = WordLlamaProvider(limits=Limits(chunk_characters=64, tokens=3))
    np.testing.assert_allclose(await chunked.embed(texts), whole, atol=1e-6)
    await chunked.close()


async def test_vectors_have_length_one_and_nothing_has_none(provider: WordLlamaProvider) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = await provider.embed(TEXTS)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(lengths, [0.0 if text == "" else 1.0 for text in TEXTS], atol=1e-5)


async def test_texts_of_similar_meaning_have_similar_vectors(provider: WordLlamaProvider) -> None:
    killed, memory, certificate = await provider.embed(
        ["container killed, out of memory", "pod exceeded its memory limit", "TLS certificate has expired"]
    )
    assert killed @ memory > killed @ certificate + 0.1


async def test_no_texts_have_no_rows(provider: WordLlamaProvider) -> None:
    assert (await provider.embed([])).shape == (0, 256)


async def test_many_callers_at_once_get_their_own(provider: WordLlamaProvider) -> None:
    alone = await provider.embed(TEXTS)
    together = await asyncio.gather(*(provider.embed([text]) for text in TEXTS))
    for row, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(row[0], expected, atol=1e-6)


async def test_a_call_that_is_ended_from_outside_leaves_the_provider_working() -> None:
    provider = WordLlamaProvider(limits=Limits(chunk_characters=64))
    await provider.embed(["a"])
    call = asyncio.create_task(provider.embed(["a text"] * 10_000))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(await provider.embed(["a"])) == 1
    await provider.close()


async def test_nothing_is_loaded_before_it_is_needed(provider: WordLlamaProvider) -> None:
    # Private: nothing outside shows whether the model's 32 MiB are in memory.
    assert provider._model is None
    await provider.embed(["a"])
    assert provider._model is not None


async def test_missing_files_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # Private: the files are in a wheel that other tests need.
    monkeypatch.setattr(wordllama_module, "_WEIGHTS", "weights/none.safetensors")
    with pytest.raises(ConfigurationError, match="wordllama is not installed with its weights"):
        WordLlamaProvider()


@pytest.mark.parametrize("file", ["_WEIGHTS", "_VOCABULARY"])
async def test_broken_files_are_no_answer(
    provider: WordLlamaProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    (tmp_path / "broken").write_bytes(b"\x10\0\0\0\0\0\0\0 no such thing")
    monkeypatch.setattr(wordllama_module, file, str(tmp_path / "broken"))
    with pytest.raises(EmbedderUnavailableError, match="can't be read"):
        await provider.embed(["a"])


def test_it_takes_little_memory_and_no_network() -> None:
    """Measured in a process of its own, in MiB: what loading and 10,000 texts leave behind."""
    program = """
import asyncio, logging, socket, sys
import numpy, psutil
from datastorage.embedding import build_provider
from datastorage.secrets import Origin
from datastorage.settingsgroups import EmbeddingSettings

def no_network(*_):
    raise AssertionError("no network")

async def main():
    socket.socket.connect = socket.getaddrinfo = no_network
    memory = psutil.Process().memory_info
    before = memory().rss
    origin = Origin("", "")
    provider = build_provider(EmbeddingSettings(), url=origin, key=origin)
    for start in range(0, 10_000, 500):
        await provider.embed([f"{number} the pod was killed " * 5 for number in range(start, start + 500)])
    await provider.embed([f"{number} the pod was killed " * 70 for number in range(500)])
    await provider.embed(["\\N{FIRECRACKER}" * 16_384])
    assert logging.root.handlers == []
    assert not {"wordllama", "onnxruntime"} & set(sys.modules)
    print((memory().rss - before) / 2**20)

asyncio.run(main())
"""
    assert float(_run(program)) < 75


def _run(program: str, given: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dimensions": 384}, "DATASTORAGE_EMBEDDING_DIMENSIONS: the model of wordllama has 256"),
        ({"model": "all-MiniLM-L6-v2"}, "DATASTORAGE_EMBEDDING_MODEL: the only model of wordllama"),
    ],
)
def test_a_setting_of_another_model_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        _built(**settings)


async def test_it_is_the_default() -> None:
    provider = _built(model="l2_supercat_256")
    assert isinstance(provider, WordLlamaProvider)
    assert str(provider.model) == "wordllama/l2_supercat_256"
    await provider.close()


def test_the_provider_none_makes_no_embedder() -> None:
    assert _built(provider="none") is None


def _built(**settings: Any) -> Provider | None:
    origin = Origin("", "")  # the model inside the program has no service
    return build_provider(EmbeddingSettings(**settings), url=origin, key=origin)


def test_every_half_precision_number_is_read_exactly() -> None:
    bits = np.arange(-(2**15), 2**15, dtype=np.int16)
    numbers = bits.view(np.float16)
    finite = np.isfinite(numbers)
    read = wordllama_module._shrunk(bits[finite]) * wordllama_module._GROWTH
    assert np.array_equal(read, numbers[finite].astype(np.float32))
