"""The default: a small model inside the program. Nothing leaves it, and it needs no service.

The weights and the vocabulary are files in the wheel of wordllama. They are used without its code, which
would cost 40 MiB more memory, half a second at the start, padding to the longest text of each batch, and a
log handler of its own.
"""

import asyncio
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from datastorage.errors import ConfigurationError, EmbedderUnavailableError
from datastorage.records.vector import EmbeddingModel, Matrix, Vector

T = TypeVar("T")

MODEL: Final = EmbeddingModel("wordllama", "l2_supercat_256", 256)

_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_VOCABULARY: Final = "tokenizers/l2_supercat_tokenizer_config.json"
# Characters of one chunk of texts: bounds the memory, and for how long the thread is deaf to a stop.
_CHUNK_CHARACTERS: Final = 32_768
# Rows of the table that are gathered at once for one text: 2 MiB.
_MAX_TOKENS_AT_ONCE: Final = 2048


class WordLlamaProvider:
    """The mean of the vectors of a text's tokens, of length one."""

    def __init__(self) -> None:
        """Raises ConfigurationError when the model's files are missing. They are loaded later."""
        self._folder = _folder()
        self._network: _Network | None = None
        # One thread: more would share the same cores, and need more memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wordllama")

    @property
    def model(self) -> EmbeddingModel:
        """What the vectors come from."""
        return MODEL

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text. A text without tokens has a row of zeros."""
        result = np.zeros((len(texts), MODEL.dimensions), np.float32)
        for chunk in _chunks(texts):
            result[chunk] = await self._in_thread(partial(self._embed, texts[chunk]))
        return result

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: Sequence[str]) -> Matrix:
        return self._loaded().embed(texts)

    def _loaded(self) -> "_Network":
        if self._network is None:
            self._network = _Network(self._folder)
        return self._network

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class _Network:
    """The table of token vectors, and what splits texts into tokens."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / _VOCABULARY))
            with safe_open(folder / _WEIGHTS, framework="np") as file:
                # 32 MiB instead of 16, but three times as fast.
                self._table: Matrix = file.get_tensor("embedding.weight").astype(np.float32)
        except Exception as error:  # the tokenizer raises nothing narrower
            raise EmbedderUnavailableError(f"The files of {MODEL} can't be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # It would keep whole texts, some 120 MiB of them: they are words to a tokenizer without word limits.
        self._tokenizer.model._resize_cache(0)  # noqa: SLF001  # there is no public way after loading

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        sums = np.stack([self._sum(np.array(one.ids, dtype=np.int32)) for one in encoded])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        result = np.zeros_like(sums)
        np.divide(sums, norms, out=result, where=norms > 0)
        return result

    def _sum(self, ids: NDArray[np.int32]) -> Vector:
        total = np.zeros(MODEL.dimensions, np.float32)
        for start in range(0, len(ids), _MAX_TOKENS_AT_ONCE):
            rows = self._table[ids[start : start + _MAX_TOKENS_AT_ONCE]]
            total += np.ones(len(rows), np.float32) @ rows  # as a product: three times as fast as a sum
        return total


def _folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not ((folder / _WEIGHTS).is_file() and (folder / _VOCABULARY).is_file()):
        raise ConfigurationError(
            "The package wordllama is not installed with its weights: install it again, or choose another "
            "DATASTORAGE_EMBEDDING_PROVIDER"
        )
    return folder


def _chunks(texts: Sequence[str]) -> Iterator[slice]:
    """Split the texts, in their order, into parts of bounded length; a longer text is one by itself."""
    start = characters = 0
    for index, text in enumerate(texts):
        if index > start and characters + len(text) > _CHUNK_CHARACTERS:
            yield slice(start, index)
            start, characters = index, 0
        characters += len(text)
    if start < len(texts):
        yield slice(start, len(texts))
