"""The reasons for the conditions in an object's status, each a single word for programs."""

from enum import StrEnum


class Reason(StrEnum):
    """The reason of a condition in the status. Reasons are public, so their words never change."""

    @property
    def label(self) -> str:
        """The reason as the label of a metric, such as ``embedder_unavailable``."""
        return self.name.lower()

    # Reasons of the condition Stored, about the row.
    WRITTEN = "Written"
    """The row is committed. In the condition Embedded: the vector is committed."""
    RECORDING = "Recording"
    """This generation is committed, and more generations may follow."""
    REJECTED = "Rejected"
    """No row can hold the object."""

    # Reasons of the condition Embedded, about the vector.
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
    QUEUED = "Queued"
    """The vector is made in the background, and nothing is wrong."""
    FOLLOWING = "Following"
    """The vectors are on another server, to which they are written after the rows."""
    IN_OUTBOX = "Owed"
    """The vector is pending in the outbox after a failure. The reason from when the row was written is not
    known any more."""
    DROPPED = "Dropped"
    """Somebody has given the vector up with ``datastorage outbox drop``."""
