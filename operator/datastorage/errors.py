"""The program's errors: those that a retry may cure, those that it can't, and those that prevent the start.

Library errors are translated into these where they enter (storage/connection/errortranslation.py,
kube/answers.py, embedding/); each edge (command line, HTTP, status) maps them once.
"""

from collections.abc import Mapping


class DataStorageError(Exception):
    """Base of every error that the program raises on purpose. The message is fit to show to a person."""


class ConfigurationError(DataStorageError):
    """The program can't work as it is configured. The message is one line that names what to change."""


class SchemaVersionError(ConfigurationError):
    """The database schema is missing, older or newer than this program needs."""


class NewerSchemaError(SchemaVersionError):
    """The database schema was made by a later version of the program, and this version does not know it."""


class TransientError(DataStorageError):
    """A dependency did not answer or could not serve. The same call may succeed later."""


class WorkRefusedError(TransientError):
    """A server did not do this piece of work: it was too large or too slow, broke a rule, or was interrupted.

    A harmless piece of work then shows whether the work or the server is at fault (resilience/breaker.py). If
    it is the work, a smaller piece of it may succeed.
    """

    is_limit = False
    """Whether the work exceeded a limit of time or size, as any work of the same size would."""


class StorageAwayError(TransientError):
    """PostgreSQL is known not to serve, so the work was not even begun."""


class OverloadedError(TransientError):
    """More work waits than there is room for."""


class PoolExhaustedError(TransientError):
    """All connections of the pool are in use. That says nothing about the server."""


class MissingRightsError(WorkRefusedError):
    """The role lacks a right that the work needs. The same work succeeds once the right is granted."""


class EmbedderUnavailableError(TransientError):
    """The embedding provider did not answer, or its answer was not a set of vectors."""


class EmbedderMisconfiguredError(EmbedderUnavailableError):
    """The embedding provider answers, but does not fit the settings: waiting alone is unlikely to help."""


class EmbeddingRefusedError(DataStorageError):
    """The embedding provider can't make a vector of at least one of the texts, now or later."""


class InvalidQueryError(DataStorageError):
    """The archive can't answer a question in this form. The message names what to change."""


class NoWordsError(InvalidQueryError):
    """A question has no words to search for. It may still have a meaning."""


class AmbiguousUidError(InvalidQueryError):
    """Records of several namespaces have the uid of a question that names no namespace."""


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


class IncompleteExportError(TransientError):
    """An export ended before its last line. What was written of it can be resumed."""


class RecordNotFoundError(DataStorageError):
    """The archive has no such record."""


class RecordRefusedError(DataStorageError):
    """PostgreSQL can't hold the data of a statement: a retry with the same records can't succeed."""


class RecordRejectedError(DataStorageError):
    """PostgreSQL can't hold a record as a row. Its bytes are kept among the rejected ones."""


class IdentifierReusedError(DataStorageError):
    """A request has the identifier of an earlier one, and another content."""

    def __init__(
        self,
        message: str = "the identifier of this request (metadata.uid or Idempotency-Key) belongs to an "
        "earlier record with another content, or to one that was rejected: use a new one for a new record",
    ) -> None:
        super().__init__(message)


class GroupRefusedError(DataStorageError):
    """A group of records is stored as a whole or not at all, and was refused: nothing of it is stored.

    ``errors`` has the error of each record at fault, by its place in the group; it is empty if none is known.
    ``is_transient`` says whether the same group may be stored later.
    """

    def __init__(
        self, message: str, errors: Mapping[int, DataStorageError], *, is_transient: bool = False
    ) -> None:
        super().__init__(message)
        self.errors = errors
        self.is_transient = is_transient


class ClusterError(DataStorageError):
    """The API server did not carry out a request."""


class ClusterUnavailableError(ClusterError, TransientError):
    """The API server did not answer, could not serve, or does not accept the credentials at present.

    Other servers, above all PostgreSQL, raise other TransientErrors: work that uses both catches
    ``(ClusterError, TransientError)``.
    """


class ObjectGoneError(ClusterError):
    """The object is not in the cluster any more."""


class NotServedError(ObjectGoneError):
    """The API server does not serve this kind of object now: its definition is missing or not established."""


class ObjectChangedError(ClusterError):
    """The object is another one (uid) or another version (resourceVersion) than the caller has seen."""


class RequestRefusedError(ClusterError):
    """The API server refused the request, and a retry would not help (RBAC, admission, validation)."""


class ForbiddenError(RequestRefusedError):
    """The API server refused for a missing right of ours, or because of an admission policy (403)."""


class ObjectTooLargeError(RequestRefusedError):
    """The object would be larger than the API server or etcd accepts."""


class CallerRefusedError(DataStorageError):
    """A request to our API is refused for its sender. The message is fit for the sender."""


class TooManyRequestsError(CallerRefusedError):
    """The sender asks for more than one sender may."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotAuthenticatedError(CallerRefusedError):
    """The request has no credentials, or the API server does not accept them."""


class NotAllowedError(CallerRefusedError):
    """The sender is known and lacks a right. The message names verb, resource and namespace."""
