"""Why something about an object is as its status says, in one word for programs."""

from enum import StrEnum


class Reason(StrEnum):
    """The reasons that a condition of the status shows. They are public: their words never change."""

    @property
    def label(self) -> str:
        """The reason as a label of a metric: embedder_unavailable."""
        return self.name.lower()

    # The row, in the condition Stored.
    WRITTEN = "Written"
    """It is committed. Of the condition Embedded: so is the vector."""
    RECORDING = "Recording"
    """This generation is committed, and more generations may come."""
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
    """The embedder makes no vector of this text."""
    VECTOR_STORE_UNAVAILABLE = "VectorStoreUnavailable"
    """The tables of vectors took nothing when the row was written."""
    FOLLOWING = "Following"
    """The vectors are on another server, and are written after the rows."""
    OWED = "Owed"
    """The vector waits in the outbox, since an earlier write of the row."""
    DROPPED = "Dropped"
    """Somebody has given the vector up."""
