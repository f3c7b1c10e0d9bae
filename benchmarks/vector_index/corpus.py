"""The vectors that are stored and searched, and the exact answers by which an index is judged."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import wordllama  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pgvector import Vector
from wordllama import WordLlama

from benchmarks.progress import Progress
from benchmarks.vector_index.texts import questions, sentences

Vectors: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = tuple[list[bytes], list[Vector]]

TOP: Final = 10
_CHUNK: Final = 20_000
# Distances that differ by less are the same within 32-bit arithmetic: either neighbour is right.
_TIE: Final = 2e-6


@dataclass(frozen=True)
class Truth:
    """What an exact search over a set of rows finds: per query the similarity of the last of the best."""

    thresholds: Vectors
    counts: NDArray[np.int64]


class Corpus:
    """Keys and vectors of distinct texts, and queries."""

    def __init__(self, rows: int, queries: int, dimensions: int) -> None:
        model = WordLlama.load(
            dim=dimensions, cache_dir=Path(wordllama.__file__).parent, disable_download=True
        )
        self.keys: list[bytes] = []
        self.vectors: Vectors = np.empty((rows, dimensions), dtype=np.float32)
        self._embed(model, rows)
        self.queries: Vectors = model.embed(list(questions(queries, seed=2)), norm=True)
        self._place = {key: place for place, key in enumerate(self.keys)}

    def _embed(self, model: Any, rows: int) -> None:
        progress = Progress("embedded", rows)
        texts = sentences(rows, seed=1)
        while chunk := list(islice(texts, _CHUNK)):
            start = len(self.keys)
            self.keys.extend(hashlib.sha256(text.encode()).digest() for text in chunk)
            self.vectors[start : start + len(chunk)] = model.embed(chunk, norm=True)
            progress.update(len(self.keys))

    def rows(self, start: int, stop: int) -> Rows:
        """Return keys and vectors of a range, as the driver takes them."""
        # Bare arrays of numpy in a list are several dimensions of one array to the driver.
        return self.keys[start:stop], [Vector(vector) for vector in self.vectors[start:stop]]

    def batches(self, start: int, stop: int, size: int) -> Iterator[Rows]:
        """Yield a range in batches."""
        for first in range(start, stop, size):
            yield self.rows(first, min(first + size, stop))

    def truth(self, stop: int) -> Truth:
        """Return the exact answers over the first ``stop`` rows."""
        best = np.full((len(self.queries), TOP), -np.inf, dtype=np.float32)
        for first in range(0, stop, _CHUNK):
            similar = self.queries @ self.vectors[first : min(first + _CHUNK, stop)].T
            candidates = np.concatenate((best, similar), axis=1)
            best = -np.partition(-candidates, TOP - 1, axis=1)[:, :TOP]
        return _truth(best)

    def truth_of(self, places: NDArray[np.int64]) -> Truth:
        """Return the exact answers over some of the rows."""
        similar = self.queries @ self.vectors[places].T
        if len(places) <= TOP:
            return _truth(similar)
        return _truth(-np.partition(-similar, TOP - 1, axis=1)[:, :TOP])

    def recall(self, truth: Truth, found: Sequence[Sequence[bytes]]) -> float:
        """Return which part of the best were found, over all queries; equally near ones are equally right."""
        shares = []
        for number, keys in enumerate(found):
            places = [self._place[key] for key in set(keys)]
            near = self.vectors[places] @ self.queries[number] >= truth.thresholds[number] - _TIE
            shares.append(min(int(near.sum()), int(truth.counts[number])) / truth.counts[number])
        return float(np.mean(shares))


def _truth(best: Vectors) -> Truth:
    finite = np.isfinite(best)
    return Truth(np.where(finite, best, np.inf).min(axis=1), finite.sum(axis=1))
