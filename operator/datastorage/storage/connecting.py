"""What it means when no connection comes about: what passes by itself is waited for, the rest is a setting.

A server that is away, still starting, or has not got the database or the role yet is waited for. So is a
wrong password: it may be one that is being changed. A certificate that is not trusted, or a parameter that
the server refuses, stays what it is until somebody changes a setting.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from datastorage.errors import ConfigurationError, DataStorageError, MissingRightsError, TransientError
from datastorage.resilience.causes import connection_trouble
from datastorage.storage.urls import malformed

# What the server says in the handshake of a client whose certificate or TLS version it does not take.
_REFUSED_CLIENT: Final = frozenset(
    {
        "TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_PROTOCOL_VERSION", "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_HANDSHAKE_FAILURE", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE",
    }
)  # fmt: skip
# The server knows no such setting, takes no such value, or only at its own start.
_REFUSED_SETTINGS: Final = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.PostgresSyntaxError,
    asyncpg.InvalidNameError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.FeatureNotSupportedError,
)
# A pooler's words; it has no error number of its own for them.
_UNKNOWN_TO_POOLER: Final = "unsupported startup parameter"
_NO_TRANSACTIONS: Final = "statement pooling mode"
_NO_TLS: Final = "rejected SSL upgrade"


@contextmanager
def connecting(server: str, setting: str) -> Iterator[None]:
    """Raise TransientError, which names the server, when no connection to it comes about.

    Where waiting does not cure it: ConfigurationError, which names the setting.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{setting}: {_said(error)}") from error
    except asyncpg.InterfaceError as error:  # some are ValueErrors too
        if "unsupported" in str(error):
            raise ConfigurationError(
                f"{server} asks for a way to log in that this program has not: {_said(error)}; "
                f"let pg_hba.conf take a password (scram-sha-256) or a certificate from the role in {setting}"
            ) from error
        raise
    except (OSError, TimeoutError) as error:  # first: a certificate that is not trusted is a ValueError too
        raise _of_network(error, server, setting) from error
    except KeyError as error:
        raise ConfigurationError(f"{setting} names no user, and this process's own has no name") from error
    except (ValueError, IndexError, OverflowError):
        raise malformed(setting) from None  # they quote parts of the URL
    except asyncpg.PostgresError as error:
        raise _of_server(error, server, setting) from error


def _of_network(error: OSError, server: str, setting: str) -> DataStorageError:
    why = connection_trouble(error)
    if why == type(error).__name__:  # the system has no word for it, and the driver may have
        why = _said(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        seen = getattr(error, "verify_message", "") or why
        return ConfigurationError(
            f"{server} shows a certificate that is not trusted: {seen}; sslrootcert in "
            f"{setting} must name the authority's certificate, and the host be the one that was certified"
        )
    if isinstance(error, ssl.SSLError) and error.reason in _REFUSED_CLIENT:
        return ConfigurationError(
            f"{server} breaks the TLS handshake off: {why}; look at sslcert, sslkey and the TLS versions "
            f"in {setting}"
        )
    if _NO_TLS in str(error):
        return ConfigurationError(
            f"{server} has no TLS, and sslmode in {setting} demands it: give the server a certificate, "
            "or choose another sslmode"
        )
    return TransientError(f"{server} can't be reached: {why}")


def _of_server(error: asyncpg.PostgresError, server: str, setting: str) -> DataStorageError:
    said = _said(error)
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return MissingRightsError(f"{server} refuses the connection: {said}")
    if isinstance(error, _REFUSED_SETTINGS):
        return ConfigurationError(
            f"{server} refuses what stands behind the ? of {setting}: {said}; correct it or remove it"
        )
    if _UNKNOWN_TO_POOLER in str(error):
        return ConfigurationError(
            f"the pooler {server} refuses what stands behind the ? of {setting}: {said}; remove it, or add "
            "it to the pooler's ignore_startup_parameters"
        )
    if _NO_TRANSACTIONS in str(error):
        return ConfigurationError(
            f"the pooler {server} has pool_mode = statement, which knows no transactions: set it to "
            f"transaction, or connect {setting} to PostgreSQL itself"
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # a wrong password among them
        return TransientError(
            f"{server} refuses the connection: {said}; check user and password in {setting}"
        )
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return TransientError(
            f"{server} refuses the connection: {said}; create it, or correct the name in {setting}"
        )
    return TransientError(f"{server} refuses the connection: {said}")


def _said(error: BaseException) -> str:
    return f"{(str(error).strip().splitlines() or [''])[0]} ({type(error).__name__})"
