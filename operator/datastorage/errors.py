"""The errors of the program: what can be tried again, what cannot, and what stops the start.

Library errors are translated into these where they enter (storage/database.py, kube/client.py);
each edge (command line, HTTP, status) maps them once.
"""


class DataStorageError(Exception):
    """Base of every error that the program raises on purpose. The message is fit to show to a person."""


class ConfigurationError(DataStorageError):
    """The program can't start as it is set up. The message is one line that names what to change."""


class SchemaVersionError(ConfigurationError):
    """The database schema is missing, older or newer than this program needs."""


class TransientError(DataStorageError):
    """A dependency did not answer or could not serve. The same call may succeed later."""


class RecordRefusedError(DataStorageError):
    """PostgreSQL refused the data of a statement: trying the same records again can't succeed."""


class ObjectGoneError(DataStorageError):
    """The object is not in the cluster any more."""


class ObjectChangedError(DataStorageError):
    """The object is another one (uid) or another version (resourceVersion) than the caller has seen."""


class RequestRefusedError(DataStorageError):
    """The API server said no for a reason that repeating does not cure (RBAC, admission, validation)."""


class ObjectTooLargeError(RequestRefusedError):
    """The object has no room left for what was to be written into it."""
