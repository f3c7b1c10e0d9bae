"""The one place where the driver's errors become the program's: whose fault each may be.

A record can be rejected only for what it holds itself. So that is a short list, and everything that is on
none of the lists counts as the server's word on one piece of work, to be told from its state by a harmless
one.
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

# All that our statements, on our tables, can raise for a value: a character or a time that the server can't
# hold, a number out of range, a text with too many words. Another of these classes (a text that is too long,
# a character that the database's encoding lacks, a division by zero) comes from what somebody has changed at
# the server.
_DATA_ERRORS: Final = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.InvalidTextRepresentationError,
    asyncpg.InvalidBinaryRepresentationError,
    asyncpg.ProgramLimitExceededError,
)
# Others with the same meaning belong to somebody's own tables, triggers and indexes.
_OWN_CONSTRAINTS: Final = frozenset(
    f"{table}_content_hash_check" for table in ("audit_records", "action_traces", "rejected_objects")
)
# Where it happened, the outermost place last, is told in the server's language. Our own places are a function
# of our schema, and a value that we sent; a quotation mark or a bracket belongs to something else.
_OWN_PLACE: Final = re.compile(
    r"""(?<![A-Za-z0-9_.$"])"?datastorage"?\.\w+\(|\A[^"'«»„“「(]*\$[0-9]+[^"'«»„“「(]*\Z"""
)
_LANGUAGE: Final = "PL/"
# The server can serve nobody, whatever it is asked for. A small statement may pass even on a full disk, and
# proves nothing then.
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
# Too much work at once: a time-out, memory, a message that is too long.
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
    """Raise RecordRefusedError for data that can't be held, TransientError for everything else of the driver.

    Of the latter, WorkRefusedError where a smaller piece of work, or another one, may pass, and
    MissingRightsError where the role lacks a right.

    What the driver says of the URL's own parameters becomes ConfigurationError, which names the setting.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{chain.setting}: {one_line(error)}") from error
    except asyncpg.InterfaceError as error:
        # The driver refuses a value that it can't encode with an error that is a ValueError too.
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
    """Return whether the values of the statement are provably what the server can't hold."""
    if type(error) is asyncpg.DataError:
        # The driver's own, who could not encode a value, says nothing of a server.
        return error.severity is None
    if isinstance(error, asyncpg.CheckViolationError):
        return error.constraint_name in _OWN_CONSTRAINTS
    if not isinstance(error, _DATA_ERRORS):
        return False
    # An index's name stands where a constraint's does. No index of ours has entries of that size.
    return error.constraint_name is None and not _in_code_of_others(error)


def _in_code_of_others(error: asyncpg.PostgresError) -> bool:
    places = (error.context or "").splitlines()
    told = [place for place in places if _LANGUAGE in place] + places[-1:]
    return not all(_OWN_PLACE.search(place) for place in told)


def _of_server(error: asyncpg.PostgresError, chain: Chain) -> RecordRefusedError | TransientError:
    if blames_the_data(error):
        return RecordRefusedError(one_line(error))
    said = f"{chain.server}: {one_line(error)}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return MissingRightsError(said)
    if isinstance(error, _OUTAGES):
        return TransientError(said)
    return _limited(said) if isinstance(error, _LIMITS) else WorkRefusedError(said)


def _limited(said: str) -> WorkRefusedError:
    error = WorkRefusedError(said)
    error.is_limit = True
    return error


def one_line(error: BaseException) -> str:
    """Say what the driver says, without what it quotes."""
    # DETAIL and HINT are left out: a detail quotes the row, and the row is the user's data.
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("invalid input for query argument"):
        lines[0] = lines[0].partition(":")[0]  # what follows is the value
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__
