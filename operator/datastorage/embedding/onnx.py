"""A sentence model inside the program, from a directory that is mounted. Texts do not leave the process.

Such a model takes milliseconds for a text, hundreds of times as long as the default one. It computes on
threads beside the event loop: onnxruntime and the tokenizer release the interpreter's lock while they work.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np

from datastorage.embedding.modelfolder import read_folder
from datastorage.embedding.provider import EmbedderBusyError
from datastorage.embedding.sentencemodel import Run, SentenceModel, StoppedError
from datastorage.errors import ConfigurationError
from datastorage.records.vector import EmbeddingModel, Matrix
from datastorage.settingsgroups import EmbeddingSettings
from datastorage.variables import PREFIX

T = TypeVar("T")

PROVIDER: Final = "onnx"


@dataclass(frozen=True)
class Limits:
    """Limits on the work that is done, or waits, at once."""

    batch_tokens: int = 512
    """Tokens, including padding, that go through the model together. Tried up to 4096: larger batches were
    not quicker, and took more memory."""
    workers: int = 2
    """Batches that are computed at once. The backfill has one batch at a time, so that a question need not
    wait for it."""
    waiting: int = 64
    """Pieces of work that are computed or wait. Each caller has at most one."""


class OnnxProvider:
    """Makes vectors with one model, a batch at a time."""

    def __init__(self, settings: EmbeddingSettings, *, limits: Limits = Limits()) -> None:
        """Load the model, which takes some seconds. Raises ConfigurationError if it can't be used."""
        self._limits = limits
        self._batch_size = settings.batch_size
        self._timeout_seconds = settings.timeout_seconds
        folder = read_folder(settings.model_dir, settings.model)
        self._loaded = SentenceModel(folder, threads=settings.threads)
        dimensions = self._loaded.dimensions
        if "dimensions" in settings.model_fields_set and settings.dimensions != dimensions:
            raise ConfigurationError(
                f"{PREFIX}EMBEDDING_DIMENSIONS: the model {folder.name} has {dimensions}, not "
                f"{settings.dimensions}; leave it out"
            )
        self._model = EmbeddingModel(PROVIDER, folder.identity(), dimensions)
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix=PROVIDER)
        self._waiting = 0
        self._runs: set[Run] = set()

    @property
    def model(self) -> EmbeddingModel:
        """The model of the vectors."""
        return self._model

    @property
    def is_slow(self) -> bool:
        """True: the write path can't wait for it."""
        return True

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text, in their order; see Provider."""
        if len(texts) == 1:  # a question, which somebody waits for
            return await self._in_thread(lambda run: self._loaded.embed(self._loaded.tokenize(texts), run))
        rows = np.empty((len(texts), self._model.dimensions), np.float32)
        tokens = await self._in_thread(lambda _: self._loaded.tokenize(texts))
        for batch in self._batches([len(each) for each in tokens]):
            chosen = [tokens[index] for index in batch]
            rows[batch] = await self._in_thread(partial(self._loaded.embed, chosen))
        return rows

    async def close(self) -> None:
        """Stop what is computed, and end the threads."""
        for run in self._runs:
            run.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[Run], T]) -> T:
        if self._waiting >= self._limits.waiting:
            raise EmbedderBusyError(f"{self._model} has {self._waiting} callers waiting already")
        run = Run()
        self._runs.add(run)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work, run)
        except TimeoutError as error:
            raise EmbedderBusyError(
                f"{self._model} computed no batch within {self._timeout_seconds:g} s"
            ) from error
        except StoppedError as error:
            raise EmbedderBusyError(f"{self._model} was stopped") from error
        finally:
            # A caller that was cancelled, or is out of time, must not keep a thread busy.
            run.stop()
            self._waiting -= 1
            self._runs.discard(run)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the indexes of the texts, similar lengths together: to compute padding is wasted work."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            is_full = len(batch) >= self._batch_size
            if batch and (is_full or (len(batch) + 1) * lengths[index] > self._limits.batch_tokens):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch
