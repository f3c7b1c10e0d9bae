"""Translates the driver's errors into the program's, in this one place: whose fault can each of them be?

A record may be rejected only for its own values. So the list of such errors is short. An error on none of the
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

# Every error that our statements, on our tables, can raise for a value: a character or a time that the server
# can't hold, a number out of range, a text with too many words. The other errors about data (a text that is
# too long, a character that the database's encoding lacks, a division by zero) come from something that
# somebody has changed at the server.
_DATA_ERRORS: Final = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.InvalidTextRepresentationError,
    asyncpg.InvalidBinaryRepresentationError,
    asyncpg.ProgramLimitExceededError,
)
# The checks of our tables that blame a value. Any other check belongs to somebody's own tables or triggers.
_CHECKS_OF_VALUES: Final = frozenset(
    f"{table}_content_hash_check" for table in ("audit_records", "action_traces", "rejected_objects")
)
# The lines of an error's context name the places where it happened, the outermost last, in the server's
# language. Our own places are a function of our schema, and a value that we sent; a quotation mark or a
# bracket belongs to something else.
_OWN_PLACE: Final = re.compile(
    r"""(?<![A-Za-z0-9_.$"])"?datastorage"?\.\w+\(|\A[^"'«»„“「(]*\$[0-9]+[^"'«»„“「(]*\Z"""
)
_LANGUAGE: Final = "PL/"
# Errors of a server that can serve nobody at all. A harmless piece of work may pass all the same, for example
# on a full disk, so that it proves nothing.
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

    RecordRefusedError: the server can't hold the data.
    WorkRefusedError: a smaller piece of work, or another one, may pass.
    MissingRightsError: the role lacks a right.
    TransientError: the server can serve nobody now.
    ConfigurationError: the driver can't use the URL's parameters; the message names the setting.
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
        raise _of_server(error, chain) from error
    except TimeoutError as error:
        why = one_line(error) if str(error) else "no answer in time"
        raise _limited(f"{chain.server}: {why}") from error
    except (asyncpg.InternalClientError, OSError) as error:
        raise WorkRefusedError(f"{chain.server}: {one_line(error)}") from error


def blames_the_data(error: asyncpg.PostgresError) -> bool:
    """Return whether the error is proved to come from the values of the statement."""
    if type(error) is asyncpg.DataError:
        # The driver's own error, for a value that it could not encode, comes without a server's severity.
        return error.severity is None
    if isinstance(error, asyncpg.CheckViolationError):
        return error.constraint_name in _CHECKS_OF_VALUES
    if not isinstance(error, _DATA_ERRORS):
        return False
    # The name of an index stands where that of a constraint does: an entry was too large for it, and no index
    # of ours has entries of such a size.
    return error.constraint_name is None and not _in_code_of_others(error)


def _in_code_of_others(error: asyncpg.PostgresError) -> bool:
    places = (error.context or "").splitlines()
    decisive = [place for place in places if _LANGUAGE in place] + places[-1:]
    return not all(_OWN_PLACE.search(place) for place in decisive)


def _of_server(error: asyncpg.PostgresError, chain: Chain) -> RecordRefusedError | TransientError:
    if blames_the_data(error):
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
