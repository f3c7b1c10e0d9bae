"""The promises of everything that makes vectors."""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from datastorage.errors import EmbedderUnavailableError
from datastorage.records.vector import EmbeddingModel, Matrix, Vector

_MIN_NORM: Final = 1e-6
# PostgreSQL adds up squares in 32 bits: a longer vector would have no distance from anything.
_MAX_NORM: Final = 1e19


class EmbedderBusyError(EmbedderUnavailableError):
    """The provider serves, but not so much at once. No text is to blame for it."""


class Provider(Protocol):
    """Makes vectors of texts."""

    @property
    def model(self) -> EmbeddingModel:
        """What the vectors come from."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text, in their order.

        Raises EmbedderUnavailableError when it can't serve now, EmbedderBusyError of those when it could
        serve less, EmbeddingRefusedError when it refuses at least one of these texts and will do so again.
        """

    async def close(self) -> None:
        """Give back what it holds. Nothing may be under way any more."""


def fault_of(row: Vector) -> str | None:
    """Return why a row is no vector that can be compared with others, or None."""
    if not np.isfinite(row).all():
        return "not finite"
    norm = float(np.linalg.norm(row.astype(np.float64)))
    if norm <= _MIN_NORM:
        return "zero vector"
    return "too large" if norm >= _MAX_NORM else None
