"""An embedding provider in memory that can fail for chosen texts."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from datastorage.errors import EmbeddingRefusedError
from datastorage.records.vector import EmbeddingModel, Matrix, Vector

DIMENSIONS = 8
MODEL = EmbeddingModel("fake", "tiny", DIMENSIONS)


def vector_of(text: str) -> Vector:
    """Return the fake's vector of a text; each text has another one."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[:DIMENSIONS], dtype=np.uint8).astype(np.float32) + 1


class FakeProvider:
    """Keeps the promises of Provider. ``calls`` has the texts of each call."""

    is_slow = False

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.refused: set[str] = set()
        self.rows: dict[str, Vector] = {}
        """Values to answer for texts instead of their vectors."""
        self.failure: Exception | None = None
        self.never_answers = False
        self.answer: Callable[[Matrix], Matrix] = lambda rows: rows
        self.cancelled = 0
        self.closed = False

    @property
    def model(self) -> EmbeddingModel:
        return MODEL

    async def embed(self, texts: Sequence[str]) -> Matrix:
        self.calls.append(list(texts))
        await asyncio.sleep(0)
        if self.never_answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.failure is not None:
            raise self.failure
        if self.refused & set(texts):
            raise EmbeddingRefusedError("The service refuses the text (400)")
        return self.answer(np.array([self.rows.get(text, vector_of(text)) for text in texts]))

    async def close(self) -> None:
        self.closed = True
