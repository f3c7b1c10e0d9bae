"""Distinguishes two reasons why no connection can be opened: a temporary state, and a wrong setting.

The program waits for a server that is away, is still starting, or lacks the database or the role. It also
waits after a wrong password, which may be changed at this moment. It does not wait if a certificate is not
trusted, if the server refuses a parameter, or if it has no TLS and must have it: that stays wrong until a
setting is changed.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from datastorage.errors import ConfigurationError, DataStorageError, MissingRightsError, TransientError
from datastorage.resilience.causes import connection_trouble
from datastorage.storage.connection.opening import ForeignAnswerError, TlsRefusedError
from datastorage.storage.connection.urls import malformed

# OpenSSL's reasons for a server that does not accept this client's certificate or TLS version.
_REFUSED_CLIENT: Final = frozenset(
    {
        "TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_PROTOCOL_VERSION", "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_HANDSHAKE_FAILURE", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE",
    }
)  # fmt: skip
# The server lacks the setting, refuses the value, or accepts a change only at its own start.
_REFUSED_SETTINGS: Final = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.PostgresSyntaxError,
    asyncpg.InvalidNameError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.FeatureNotSupportedError,
)
# Error texts of poolers, which give no error code for them.
_UNKNOWN_TO_POOLER: Final = "unsupported startup parameter"
_NO_TRANSACTIONS: Final = "statement pooling mode"
# Error texts of the driver, which has no types for them.
_UNKNOWN_LOGIN: Final = "unsupported"
_ENDED: Final = "closed"
_ERROR_ANSWER: Final = "server sent an error response"
# A proxy accepts connections and closes them at once while the server behind it is away. A server closes them
# when it ends.
_CLOSED: Final = "the connection was closed before it was ready"


@contextmanager
def connecting(server: str, setting: str) -> Iterator[None]:
    """Raise TransientError, which names the server, when no connection to it can be opened.

    Raises ConfigurationError, which names the setting, if waiting does not help.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{setting}: {_first_line(error)}") from error
    except asyncpg.InterfaceError as error:  # some are ValueErrors too
        if _ENDED in str(error):
            raise TransientError(f"{server} can't be reached: {_CLOSED}") from error
        if _UNKNOWN_LOGIN in str(error):
            raise ConfigurationError(
                f"{server} demands a login method that this program does not support: {_first_line(error)}; "
                f"allow a password (scram-sha-256) or a certificate in pg_hba.conf for the role in {setting}"
            ) from error
        raise
    except (OSError, TimeoutError) as error:  # before ValueError: an untrusted certificate is one too
        raise _network_error(error, server, setting) from error
    except KeyError as error:
        raise ConfigurationError(f"{setting} names no user, and this process's user has no name") from error
    except (ValueError, IndexError, OverflowError):
        raise malformed(setting) from None  # these errors quote parts of the URL
    except asyncpg.PostgresError as error:
        raise _server_error(error, server, setting) from error


def _network_error(error: OSError, server: str, setting: str) -> DataStorageError:
    why = connection_trouble(error)
    if isinstance(error, ForeignAnswerError):
        why = "something other than PostgreSQL answers there, perhaps a proxy whose server is away"
    elif why == type(error).__name__:  # the operating system has no text for the error
        is_closed = isinstance(error, ConnectionError) and _ERROR_ANSWER not in str(error)
        why = _CLOSED if is_closed else _first_line(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        why = getattr(error, "verify_message", "") or why
        return ConfigurationError(
            f"{server} shows a certificate that is not trusted: {why}; sslrootcert in {setting} must name "
            "the authority's certificate, and the URL a host that the certificate is for"
        )
    if isinstance(error, ssl.SSLError) and error.reason in _REFUSED_CLIENT:
        return ConfigurationError(
            f"{server} refused the TLS handshake: {why}; check sslcert, sslkey and the TLS versions "
            f"in {setting}"
        )
    if isinstance(error, TlsRefusedError):
        return ConfigurationError(
            f"{server} has no TLS, and sslmode in {setting} requires it: give the server a certificate, "
            "or choose another sslmode"
        )
    return TransientError(f"{server} can't be reached: {why}")


def _server_error(error: asyncpg.PostgresError, server: str, setting: str) -> DataStorageError:
    message = _first_line(error)
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):  # of the driver, when the connection ends
        return TransientError(f"{server} can't be reached: {_CLOSED}")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return MissingRightsError(f"{server} refuses the connection: {message}")
    if isinstance(error, _REFUSED_SETTINGS):
        return ConfigurationError(
            f"{server} refuses a parameter behind the ? of {setting}: {message}; correct it or remove it"
        )
    if _UNKNOWN_TO_POOLER in str(error):
        return ConfigurationError(
            f"the pooler {server} refuses a parameter behind the ? of {setting}: {message}; remove it, or "
            "add it to the pooler's ignore_startup_parameters"
        )
    if _NO_TRANSACTIONS in str(error):
        return ConfigurationError(
            f"the pooler {server} has pool_mode = statement, which has no transactions: set it to "
            f"transaction, or connect {setting} to PostgreSQL itself"
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # includes a wrong password
        return TransientError(
            f"{server} refuses the connection: {message}; check user and password in {setting}"
        )
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return TransientError(
            f"{server} refuses the connection: {message}; create it, or correct the name in {setting}"
        )
    return TransientError(f"{server} refuses the connection: {message}")


def _first_line(error: BaseException) -> str:
    return f"{(str(error).strip().splitlines() or [''])[0]} ({type(error).__name__})"
