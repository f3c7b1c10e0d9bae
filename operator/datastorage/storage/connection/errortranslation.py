"""Translates the driver's errors into the program's: is a record, a piece of work or the server at fault?

A record may be rejected only for its own values, so the list of such errors is short. An error on none of the
lists counts as the refusal of one piece of work; a harmless piece of work then shows whether the work or the
server's state is the cause.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from datastorage.errors import (
    ConfigurationError,
    MissingRightsError,
    RecordRefusedError,
    TransientError,
    WorkRefusedError,
)
from datastorage.storage.schema import ARCHIVE, Chain

# All errors that our statements can raise for a value in our tables: a character or a time that the server
# can't hold, a number out of range, a text with too many words. Other errors about data (a text that is too
# long, a character that the database's encoding lacks, a division by zero) come from a change that somebody
# has made at the server.
_DATA_ERRORS: Final = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.InvalidTextRepresentationError,
    asyncpg.InvalidBinaryRepresentationError,
    asyncpg.ProgramLimitExceededError,
)
# The check constraints of our tables on the values of a record. Any other was added by somebody else.
_CHECKS_OF_VALUES: Final = frozenset(
    f"{table}_content_hash_check" for table in ("audit_records", "action_traces", "rejected_objects")
)
# The lines of an error's context name the places where it happened, the outermost last, in the server's
# language. Our own places are functions of our schema, and parameters that we sent ($1). A line with other
# quotation marks or brackets is about something else.
_OWN_PLACE: Final = re.compile(
    r"""(?<![A-Za-z0-9_.$"])"?datastorage"?\.\w+\(|\A[^"'«»„“「(]*\$[0-9]+[^"'«»„“「(]*\Z"""
)
_LANGUAGE: Final = "PL/"
# Errors of a server that can't serve any client. A harmless piece of work would prove nothing: on a full
# disk, for example, it may still succeed.
_OUTAGES: Final = (
    asyncpg.DiskFullError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientCannotConnectError,
    asyncpg.ConnectionRejectionError,
)
# Errors about too much work at once: a time-out, memory, a message that is too long.
_LIMITS: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.OutOfMemoryError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.ConfigurationLimitExceededError,
    asyncpg.ProtocolViolationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


@contextmanager
def translated_errors(chain: Chain = ARCHIVE) -> Iterator[None]:
    """Translate the driver's errors within the block.

    Raises RecordRefusedError if the server can't hold the data, MissingRightsError if the role lacks a right,
    WorkRefusedError if a smaller or other piece of work may succeed, TransientError if the server can serve
    nobody now, and ConfigurationError, which names the setting, if the driver can't use the URL's parameters.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{chain.setting}: {one_line(error)}") from error
    except asyncpg.InterfaceError as error:
        # The driver's error for a value that it can't encode is a ValueError as well.
        if isinstance(error, ValueError):
            raise RecordRefusedError(one_line(error)) from error
        raise WorkRefusedError(f"{chain.server}: {one_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise _server_error(error, chain) from error
    except TimeoutError as error:
        why = one_line(error) if str(error) else "no answer in time"
        raise _limited(f"{chain.server}: {why}") from error
    except (asyncpg.InternalClientError, OSError) as error:
        raise WorkRefusedError(f"{chain.server}: {one_line(error)}") from error


def is_data_error(error: asyncpg.PostgresError) -> bool:
    """Return whether the values of the statement are certainly the cause of the error."""
    if type(error) is asyncpg.DataError:
        # The driver's own error, for a value that it could not encode, has no severity from a server.
        return error.severity is None
    if isinstance(error, asyncpg.CheckViolationError):
        return error.constraint_name in _CHECKS_OF_VALUES
    if not isinstance(error, _DATA_ERRORS):
        return False
    # The constraint may be an index, if an entry was too large for it. Our own indexes have no such entries.
    return error.constraint_name is None and not _is_in_foreign_code(error)


def _is_in_foreign_code(error: asyncpg.PostgresError) -> bool:
    places = (error.context or "").splitlines()
    decisive = [place for place in places if _LANGUAGE in place] + places[-1:]
    return not all(_OWN_PLACE.search(place) for place in decisive)


def _server_error(error: asyncpg.PostgresError, chain: Chain) -> RecordRefusedError | TransientError:
    if is_data_error(error):
        return RecordRefusedError(one_line(error))
    message = f"{chain.server}: {one_line(error)}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return MissingRightsError(message)
    if isinstance(error, _OUTAGES):
        return TransientError(message)
    return _limited(message) if isinstance(error, _LIMITS) else WorkRefusedError(message)


def _limited(message: str) -> WorkRefusedError:
    error = WorkRefusedError(message)
    error.is_limit = True
    return error


def one_line(error: BaseException) -> str:
    """Return the driver's message without the values that it quotes."""
    # DETAIL and HINT are left out: a detail quotes the row, and the row is the user's data.
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("invalid input for query argument"):
        lines[0] = lines[0].partition(":")[0]  # the value follows the colon
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__
