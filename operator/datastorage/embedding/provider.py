"""The interface of all embedding providers, and the checks on their answers."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from datastorage import metrics
from datastorage.errors import (
    DataStorageError,
    EmbedderMisconfiguredError,
    EmbedderUnavailableError,
    EmbeddingRefusedError,
)
from datastorage.records.vector import EmbeddingModel, Matrix, Vector

_log = logging.getLogger(__name__)

# Every working model can embed this text.
_HARMLESS: Final = "the pod was restarted"
_MIN_NORM: Final = 1e-6
# PostgreSQL sums squares in 32 bits: a longer vector would have no distance from any other.
_MAX_NORM: Final = 1e19


class EmbedderBusyError(EmbedderUnavailableError):
    """The provider serves, but not this much at once. No text is at fault."""


class Provider(Protocol):
    """Makes vectors of texts."""

    @property
    def model(self) -> EmbeddingModel:
        """The model of the vectors."""

    @property
    def is_slow(self) -> bool:
        """Whether it usually takes longer for a batch than the write path may wait."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each text, in their order.

        Raises EmbedderUnavailableError when the provider can't serve now, its subclass EmbedderBusyError when
        it could serve fewer texts, EmbeddingRefusedError when it refuses at least one of the texts for good.
        """

    async def close(self) -> None:
        """Release its resources. No call may still be running."""


async def rows_of(provider: Provider, texts: Sequence[str]) -> Matrix:
    """Call the provider once; return a matrix with one row for each text.

    Raises the errors of ``Provider.embed``.
    """
    try:
        with metrics.EMBEDDING_DURATION.time():
            rows = await provider.embed(texts)
        # Numbers that are too large become infinite; ``fault_of`` detects that.
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = np.asarray(rows, dtype=np.float32)
    except DataStorageError:
        raise
    except Exception as error:
        # A bug here or in a library may prevent vectors, but never the storing of records.
        _log.exception("The embedding provider failed unexpectedly")
        raise EmbedderUnavailableError(
            f"{provider.model} failed unexpectedly ({type(error).__name__})"
        ) from error
    expected = (len(texts), provider.model.dimensions)
    if matrix.shape != expected:
        raise EmbedderUnavailableError(
            f"{provider.model} answered an array of shape {matrix.shape} instead of {expected}"
        )
    return matrix


async def probe(provider: Provider) -> None:
    """Check that the provider makes a vector of a harmless text.

    Raises EmbedderUnavailableError while it does not.
    """
    try:
        fault = fault_of((await rows_of(provider, [_HARMLESS]))[0])
    except EmbeddingRefusedError as error:
        raise EmbedderMisconfiguredError(f"{provider.model} refuses even a harmless text: {error}") from error
    if fault:
        raise EmbedderUnavailableError(f"{provider.model} makes no vector of a harmless text: {fault}")


def fault_of(row: Vector) -> str | None:
    """Return why a row can't be compared with other vectors, or None."""
    if not np.isfinite(row).all():
        return "not finite"
    norm = float(np.linalg.norm(row.astype(np.float64)))
    if norm <= _MIN_NORM:
        return "zero vector"
    return "too large" if norm >= _MAX_NORM else None
