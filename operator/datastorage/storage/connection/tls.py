"""Checks the files named in a PostgreSQL URL before each connection, so that an error can name them.

The driver loads the files too, but its errors do not name the wrong file or parameter.
"""

import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from datastorage.errors import ConfigurationError
from datastorage.files import UnusableFileError, check_file
from datastorage.storage.connection.urls import ServerUrl

# The driver reads these environment variables if the URL lacks the parameter.
_VARIABLES: Final[Mapping[str, str]] = {
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcrl": "PGSSLCRL", "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY", "passfile": "PGPASSFILE",
}  # fmt: skip
_VERIFYING: Final = frozenset({"require", "verify-ca", "verify-full"})
_SYSTEM: Final = "system"
_ALPN: Final = ["postgresql"]  # required for a direct TLS connection
_TLS_VERSIONS: Final = {f"TLSv{v}": ssl.TLSVersion[f"TLSv{v}".replace(".", "_")] for v in ("1.2", "1.3")}
# A large list of revoked certificates takes some MiB.
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024


def prepare_files(url: ServerUrl) -> ssl.SSLContext | None:
    """Check the files; return a TLS context if the URL needs one that the driver can't make, otherwise None.

    Raises ConfigurationError, which names setting, parameter and file, if a file can't be used.
    """
    values = {name: _value_of(url, name) for name in _VARIABLES}
    if values["passfile"] and "password" not in url.parameters:
        _check_passfile(url, Path(values["passfile"]))
    if values["sslmode"] == "disable":
        return None
    for name in ("sslkey", "sslcrl"):
        if values[name]:
            _refuse_endless(url, name, values[name])
    if values["sslcert"]:
        _load_identity(url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), values["sslcert"], values["sslkey"])
    if values["sslrootcert"] == _SYSTEM:
        return _system_context(url, values)
    if values["sslmode"] in _VERIFYING:
        for name in ("sslrootcert", "sslcrl"):
            if values[name]:
                _load_trusted(url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), name, values[name])
    return None


def demands_tls(url: ServerUrl) -> bool:
    """Return whether the URL or the environment rules out a connection without TLS."""
    return _value_of(url, "sslmode") in _VERIFYING or _value_of(url, "sslrootcert") == _SYSTEM


def _value_of(url: ServerUrl, name: str) -> str:
    return url.parameters.get(name) or os.environ.get(_VARIABLES[name], "")


def _check_passfile(url: ServerUrl, path: Path) -> None:
    try:
        mode = path.stat().st_mode
        check_file(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise _unusable(url, "passfile", path, _trouble(error)) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        # The driver and libpq ignore such a file, and the server would then report a missing password.
        raise _unusable(url, "passfile", path, "others may read: set its mode to 0600 (defaultMode: 0400)")


def _load_identity(url: ServerUrl, context: ssl.SSLContext, certificate: str, key: str) -> None:
    for name, path in (("sslcert", certificate), ("sslkey", key)):
        if path:
            _check_readable(url, name, path)
    password = url.parameters.get("sslpassword", "")
    try:
        context.load_cert_chain(certificate, key or None, password=lambda: password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable(url, "sslkey", key or certificate, "is not the key of sslcert") from None
        raise _unusable(
            url, "sslcert", certificate,
            "is no certificate in PEM form, or its key can't be read with sslpassword",
        ) from None  # fmt: skip


def _load_trusted(url: ServerUrl, context: ssl.SSLContext, name: str, path: str) -> None:
    _check_readable(url, name, path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise _unusable(url, name, path, "has no certificate in PEM form") from None


def _refuse_endless(url: ServerUrl, name: str, path: str) -> None:
    """Raise ConfigurationError for a FIFO or a device. The driver reads these files in every TLS mode."""
    try:
        check_file(path, _MAX_FILE_BYTES)
    except UnusableFileError as error:
        raise _unusable(url, name, path, _trouble(error)) from None
    except OSError:
        return  # the file need not exist in every mode


def _check_readable(url: ServerUrl, name: str, path: str) -> None:
    try:
        check_file(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise _unusable(url, name, path, _trouble(error)) from None


def _system_context(url: ServerUrl, values: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's certificates. As in libpq, it always checks the host name."""
    if values["sslmode"] not in {"", "verify-full"}:
        raise ConfigurationError(
            f"{url.setting}: sslrootcert=system needs sslmode=verify-full, not {values['sslmode']}"
        )
    context = ssl.create_default_context()
    context.set_alpn_protocols(_ALPN)
    if values["sslcert"]:
        _load_identity(url, context, values["sslcert"], values["sslkey"])
    if values["sslcrl"]:
        _load_trusted(url, context, "sslcrl", values["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    for name, attribute in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        version = url.parameters.get(name)
        if version is not None:
            if version not in _TLS_VERSIONS:
                raise ConfigurationError(f"{url.setting}: {name} must be one of {', '.join(_TLS_VERSIONS)}")
            setattr(context, attribute, _TLS_VERSIONS[version])
    return context


def _trouble(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "is not there"
    if isinstance(error, PermissionError):
        return "may not be read by this process"
    if isinstance(error, UnusableFileError):
        return f"is {error.strerror}"
    return "can't be read"


def _unusable(url: ServerUrl, name: str, path: Path | str, what: str) -> ConfigurationError:
    source = name if name in url.parameters else _VARIABLES[name]
    return ConfigurationError(f"{url.setting}: {source} names {path}, which {what}")
