"""Vectors, and the model that makes them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One vector. It is read-only, because caches return the same array to many callers."""

Matrix = NDArray[np.float32]
"""One vector per row."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """The identity of a model. Only vectors of equal models can be compared."""

    provider: str
    name: str
    dimensions: int

    def __str__(self) -> str:
        """Return the model's name for people and for an object's status."""
        return f"{self.provider}/{self.name}"
