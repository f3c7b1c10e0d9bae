"""What a vector is, what made it, and what every maker of vectors promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One vector. Read only: caches hand the same one to many."""

Matrix = NDArray[np.float32]
"""One vector a row."""


@dataclass(frozen=True)
class EmbeddingModel:
    """What makes vectors comparable: only those of an equal model are."""

    provider: str
    name: str
    dimensions: int

    def __str__(self) -> str:
        """Return the name for a person and for an object's status."""
        return f"{self.provider}/{self.name}"


class Provider(Protocol):
    """Makes vectors of texts."""

    @property
    def model(self) -> EmbeddingModel:
        """What the vectors come from."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text, in their order.

        Raises EmbedderUnavailableError when it can't serve now, EmbeddingRefusedError when it refuses at
        least one of these texts and will do so again.
        """

    async def close(self) -> None:
        """Give back what it holds. Nothing may be under way any more."""
