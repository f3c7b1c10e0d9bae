"""The reasons for the conditions in an object's status, each a single word for programs."""

from enum import StrEnum


class Reason(StrEnum):
    """The reason of a condition in the status. Reasons are public, so their words never change."""

    @property
    def label(self) -> str:
        """The reason as a label of a metric: embedder_unavailable."""
        return self.name.lower()

    # The row, in the condition Stored.
    WRITTEN = "Written"
    """The row is committed; in the condition Embedded, the vector is committed too."""
    RECORDING = "Recording"
    """This generation is committed, and more generations may follow."""
    REJECTED = "Rejected"
    """No row can hold the object."""

    # The vector, in the condition Embedded.
    NO_PROVIDER = "NoProvider"
    """No vectors are kept."""
    NO_TEXT = "NoText"
    """The record has no words."""
    EMBEDDER_UNAVAILABLE = "EmbedderUnavailable"
    """The embedder did not serve when the row was written."""
    EMBEDDING_REFUSED = "EmbeddingRefused"
    """The embedder can't make a vector of this text."""
    VECTOR_STORE_UNAVAILABLE = "VectorStoreUnavailable"
    """The tables of vectors accepted nothing when the row was written."""
    FOLLOWING = "Following"
    """The vectors are on another server, to which they are written after the rows."""
    OWED = "Owed"
    """The vector has been pending in the outbox since an earlier write of the row."""
    DROPPED = "Dropped"
    """Somebody has dropped the vector with ``datastorage outbox``."""
