"""The errors of the program: what can be tried again, what cannot, and what stops the start.

Library errors are translated into these where they enter (storage/connection/errortranslation.py,
kube/answers.py, embedding/); each edge (command line, HTTP, status) maps them once.
"""


class DataStorageError(Exception):
    """Base of every error that the program raises on purpose. The message is fit to show to a person."""


class ConfigurationError(DataStorageError):
    """The program can't start as it is set up. The message is one line that names what to change."""


class SchemaVersionError(ConfigurationError):
    """The database schema is missing, older or newer than this program needs."""


class NewerSchemaError(SchemaVersionError):
    """The database schema was made by a later version of the program, which alone knows what it means."""


class TransientError(DataStorageError):
    """A dependency did not answer or could not serve. The same call may succeed later."""


class WorkRefusedError(TransientError):
    """A server did not do this piece of work: too much, too slow, against a rule, or interrupted.

    A harmless piece of work shows whether that is the work's own fault or the server's state
    (resilience/breaker.py). If it is the work's, less of it may pass.
    """

    is_limit = False
    """Whether it met a limit of time or size, which any work of its amount would meet."""


class PoolUsedUpError(TransientError):
    """All connections to a server are in use, which says nothing about the server."""


class MissingRightsError(WorkRefusedError):
    """The role may not do what was asked for, until its owner gives it the right."""


class EmbedderUnavailableError(TransientError):
    """The embedding provider did not answer, or its answer was not a set of vectors."""


class EmbedderMisconfiguredError(EmbedderUnavailableError):
    """The embedding provider answers, but not as the settings say: waiting alone is unlikely to help."""


class EmbeddingRefusedError(DataStorageError):
    """The embedding provider can't make a vector of at least one of the texts, now or later."""


class InvalidQueryError(DataStorageError):
    """A question to the archive that can't be answered as it was put. The message names what to change."""


class InvalidBodyError(DataStorageError):
    """The body of a request is not JSON that the API server reads. The message says what is wrong and where.

    ``position`` is the byte, ``pointer`` the JSON pointer of the value that is wrong; None if there is none.
    """

    def __init__(self, message: str, *, position: int | None = None, pointer: str | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.pointer = pointer


class BodyTooLargeError(InvalidBodyError):
    """The body of a request has more bytes than are accepted."""


class RecordNotFoundError(DataStorageError):
    """The archive has no such record."""


class RecordRefusedError(DataStorageError):
    """PostgreSQL can't hold the data of a statement: trying the same records again can't succeed."""


class ClusterError(DataStorageError):
    """The API server did not do what it was asked to do."""


class ClusterUnavailableError(ClusterError, TransientError):
    """The API server did not answer, could not serve, or does not accept the credentials at present.

    Other servers, above all PostgreSQL, raise other TransientErrors: work that uses both catches
    ``(ClusterError, TransientError)``.
    """


class ObjectGoneError(ClusterError):
    """The object is not in the cluster any more."""


class NotServedError(ObjectGoneError):
    """The API server does not serve this kind of object now: its definition is missing, or not in force."""


class ObjectChangedError(ClusterError):
    """The object is another one (uid) or another version (resourceVersion) than the caller has seen."""


class RequestRefusedError(ClusterError):
    """The API server refused for a reason that repeating does not cure (RBAC, admission, validation)."""


class ObjectTooLargeError(RequestRefusedError):
    """The object has no room left for what was to be written into it."""
