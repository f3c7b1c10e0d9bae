"""The default provider: a small model inside the program. Texts do not leave the process.

The weights and the vocabulary are files in the wheel of wordllama. Its code is not used: it would take 40 MiB
more memory and half a second at the start, pad texts to the longest of each batch, and add a log handler.
"""

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from datastorage.errors import ConfigurationError, EmbedderUnavailableError
from datastorage.records.vector import EmbeddingModel, Matrix, Vector
from datastorage.resilience.dividing import chunks

T = TypeVar("T")

MODEL: Final = EmbeddingModel("wordllama", "l2_supercat_256", 256)

_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_VOCABULARY: Final = "tokenizers/l2_supercat_tokenizer_config.json"

# The bits of a 32-bit float that a 16-bit float fills: its sign, the low part of the exponent, its fraction.
_KEPT_BITS: Final = np.int32(0x0FFFE000 - 2**31)
# The exponents of the two formats count from 15 and from 127.
_GROWTH: Final = np.float32(2.0**112)


@dataclass(frozen=True)
class Limits:
    """Limits on the work that is done at once."""

    chunk_characters: int = 32_768
    """Characters of one chunk of texts. This bounds the memory, and the time until the thread can end."""
    tokens: int = 2048
    """Rows of the table that are gathered at once for one text; they take 2 MiB."""


class WordLlamaProvider:
    """Embeds a text as the mean of its tokens' vectors, scaled to length one."""

    def __init__(self, *, limits: Limits = Limits()) -> None:
        """Raises ConfigurationError if the model's files are missing. They are loaded at the first use."""
        self._folder = _folder()
        self._limits = limits
        self._model: _LoadedModel | None = None
        # One thread is enough: more would share the same cores and need more memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wordllama")

    @property
    def model(self) -> EmbeddingModel:
        """The model of the vectors."""
        return MODEL

    @property
    def is_slow(self) -> bool:
        """False: a full batch takes tens of milliseconds."""
        return False

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text. A text without tokens has a row of zeros."""
        rows = [
            await self._in_thread(partial(self._embed, chunk))
            for chunk in chunks(texts, len, self._limits.chunk_characters)
        ]
        return np.concatenate([np.empty((0, MODEL.dimensions), np.float32), *rows])

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: Sequence[str]) -> Matrix:
        return self._loaded().embed(texts)

    def _loaded(self) -> "_LoadedModel":
        if self._model is None:
            self._model = _LoadedModel(self._folder, self._limits.tokens)
        return self._model

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class _LoadedModel:
    """The table of token vectors, and the tokenizer that splits texts into tokens."""

    def __init__(self, folder: Path, tokens_at_once: int) -> None:
        self._tokens_at_once = tokens_at_once
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / _VOCABULARY))
            with safe_open(folder / _WEIGHTS, framework="np") as file:
                # As 32-bit numbers, it would take 32 MiB instead of 16.
                halves: NDArray[np.float16] = file.get_tensor("embedding.weight").astype(np.float16)
        except Exception as error:  # the tokenizer raises no narrower type
            raise EmbedderUnavailableError(f"The files of {MODEL} can't be read: {error}") from error
        self._bits = halves.view(np.int16)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Its cache would keep whole texts, some 120 MiB: this tokenizer does not split them into words.
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
        for start in range(0, len(ids), self._tokens_at_once):
            rows = _shrunk(self._bits[ids[start : start + self._tokens_at_once]])
            total += np.ones(len(rows), np.float32) @ rows  # as a product: three times as fast as a sum
        return total * _GROWTH


def _shrunk(bits: NDArray[np.int16]) -> Matrix:
    """Return 16-bit floats, given by their bits, as 32-bit floats divided by ``_GROWTH``. This is exact.

    Sign, exponent and fraction only change their places. numpy's own conversion takes three times as long.
    """
    moved = bits.astype(np.int32)
    moved <<= 13
    moved &= _KEPT_BITS
    return moved.view(np.float32)


def _folder() -> Path:
    spec = importlib.util.find_spec("wordllama")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not ((folder / _WEIGHTS).is_file() and (folder / _VOCABULARY).is_file()):
        raise ConfigurationError(
            "the package wordllama is not installed with its weights: install it again, or choose another "
            "DATASTORAGE_EMBEDDING_PROVIDER"
        )
    return folder
