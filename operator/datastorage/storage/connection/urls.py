"""Checks PostgreSQL URLs, and decides what each of libpq's parameters means, before the driver gets it.

The driver knows only some of libpq's parameters. It would pass the others to the server as settings, which
the server would refuse for ever, with an error that does not name the program's setting.
"""

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from datastorage.errors import ConfigurationError
from datastorage.files import read_file

_MAX_PORT: Final = 65_535
_NAME: Final = "datastorage"
# The limit on connect_timeout: the program's start waits for the connection.
_MAX_CONNECT_SECONDS: Final = 30.0
_DEFAULT_CONNECT_SECONDS: Final = 5.0
_MAX_SERVICE_BYTES: Final = 1024 * 1024

_TO_DRIVER: Final = frozenset(
    {
        "user", "password", "host", "port", "dbname", "database", "passfile", "sslmode", "sslcert", "sslkey",
        "sslrootcert", "sslnegotiation", "sslcrl", "sslpassword", "ssl_min_protocol_version",
        "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    }
)  # fmt: skip
# Files that the driver reads whenever it connects. Their contents may change while the program runs.
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_TO_SOCKET: Final = frozenset(
    {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "target_session_attrs": frozenset(
        {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
    ),
    "gsslib": frozenset({"gssapi", "sspi"}),
}


class _Limited(NamedTuple):
    """A parameter that the driver lacks: the values that ask for what it does anyway, and the advice if the
    parameter has another value.
    """

    values: frozenset[str]
    remedy: str


_REMOVE: Final = "remove it"
_LIMITED: Final[Mapping[str, _Limited]] = {
    "channel_binding": _Limited(frozenset({"disable", "prefer"}), "use sslmode=verify-full instead"),
    "gssencmode": _Limited(frozenset({"disable", "prefer"}), "encrypt by sslmode instead"),
    "gssdelegation": _Limited(frozenset({"0"}), _REMOVE),
    "sslcompression": _Limited(frozenset({"0", "1"}), _REMOVE),
    "sslsni": _Limited(frozenset({"1"}), _REMOVE),
    "sslcertmode": _Limited(frozenset({"allow"}), "leave sslcert out where no certificate is to be sent"),
    "sslcrldir": _Limited(frozenset(), "name one file in sslcrl"),
    "sslkeylogfile": _Limited(frozenset(), "set SSLKEYLOGFILE in the environment"),
    "requirepeer": _Limited(frozenset(), _REMOVE),
    "require_auth": _Limited(frozenset(), "let pg_hba.conf of the server demand the method"),
    "hostaddr": _Limited(frozenset(), "give the address in place of the host"),
    "load_balance_hosts": _Limited(frozenset({"disable"}), "the hosts are tried in their order"),
    "client_encoding": _Limited(frozenset({"auto", "utf8", "utf-8", "unicode"}), "it is always UTF8"),
    "timezone": _Limited(frozenset({"utc", "etc/utc", "gmt"}), "it is always UTC"),
    "replication": _Limited(frozenset({"0", "off", "no", "false"}), _REMOVE),
    "min_protocol_version": _Limited(frozenset({"3.0"}), "the driver speaks version 3.0"),
    "max_protocol_version": _Limited(frozenset({"3.0", "3.2", "latest"}), "the driver speaks version 3.0"),
    **{
        name: _Limited(frozenset(), "let the role log in with a password or a certificate")
        for name in (
            "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope", "oauth_ca_file",
            "scram_client_key", "scram_server_key",
        )
    },
}  # fmt: skip
_NAME_OF_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A PostgreSQL URL, parsed into parameters for the driver, the server and the socket."""

    setting: str
    """The setting that the URL comes from, for messages."""
    address: str
    """The address of the server, without user and password."""
    driver_url: str = field(repr=False)
    parameters: Mapping[str, str] = field(repr=False)
    """The parameters for the driver, which may include a password."""
    server_settings: Mapping[str, str] = field(repr=False)
    socket_options: Mapping[str, int]
    connect_seconds: float


def parse_url(url: str, setting: str) -> ServerUrl:
    """Parse a URL. Raises ConfigurationError, which names the setting, if the URL can't be used.

    The driver would notice errors only when it connects, and would quote parts of the URL, password included.
    """
    try:
        parts = urlsplit(url)
        given = parameters_in(parts.query)
        _check_parts(url, parts, given)
    except ValueError:
        raise malformed(setting) from None
    if not url.lower().startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"{setting} must start with postgresql://")
    try:
        return _server_url(parts, _with_service(given), setting)
    except _ParameterError as error:
        raise ConfigurationError(f"{setting}: {error}") from None


def check_url(url: str, setting: str) -> None:
    """Raise ConfigurationError, which names the setting, if the URL can't be used."""
    parse_url(url, setting)


def address_in(url: str) -> str:
    """Return the address in a URL, or in the service file that it names, without user and password."""
    parts = urlsplit(url)
    return _address(parts, _readable_parameters(parts))


def files_in(url: str) -> list[str]:
    """Return the paths of the files that a URL names: its service file, certificates, keys, password file.

    Files that only the service file names are left out while it can't be read, for example while it is
    replaced.
    """
    parts = urlsplit(url)
    given = parameters_in(parts.query)
    parameters = _readable_parameters(parts)
    files = [str(_service_file(given))] if given.get("service") else []
    return files + [parameters[name] for name in _FILES if parameters.get(name)]


def malformed(setting: str) -> ConfigurationError:
    """Return the error for a malformed URL, which quotes no part of it."""
    return ConfigurationError(
        f"{setting} is not a valid URL: special characters, also of the password, must be percent-encoded"
    )


class _ParameterError(Exception):
    """A parameter that can't be used; the message says what to do about it."""


def parameters_in(query: str) -> dict[str, str]:
    """Return the parameters after the "?". Raises ValueError if that is not a list of names and values."""
    parameters: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ValueError(name)
        # A "+" in a URL of libpq is a plus sign. In the server's options it would make no sense, and some
        # libraries write a space that way.
        parameters[unquote(name)] = unquote(value.replace("+", " ") if name == "options" else value)
    if parameters.pop("ssl", None) == "true":  # the spelling of JDBC, which libpq accepts too
        parameters.setdefault("sslmode", "require")
    return parameters


def _check_parts(url: str, parts: SplitResult, options: Mapping[str, str]) -> None:
    """Raise ValueError if the URL is malformed, or seems to have been split within the password."""
    user, at, address = parts.netloc.rpartition("@")
    # A "/" or "?" in the password ends the user and password too early: the "@" comes after it.
    cut_off = not at and "user" not in options and "@" in f"{parts.path}{parts.query}"
    if not url.isprintable() or "#" in url or "@" in user or cut_off:
        raise ValueError
    for hosts in (address.split(","), options.get("host", "").split(",")):
        if len(hosts) > 1 and not all(hosts):
            raise ValueError
    for host in address.split(","):
        _ = urlsplit(f"//{host}").port  # raises ValueError unless it is a number
        if not host.lower().startswith("%2f"):  # the folder of a socket
            host.encode("idna")
    # For anything but a number, int raises ValueError too.
    if any(int(port) > _MAX_PORT for port in (options.get("port") or "0").split(",")):
        raise ValueError


def _readable_parameters(parts: SplitResult) -> dict[str, str]:
    """Return the parameters of a URL and, if it can be read now, of its service file."""
    given = parameters_in(parts.query)
    try:
        return _with_service(given)
    except _ParameterError:
        return given


def _with_service(given: Mapping[str, str]) -> dict[str, str]:
    """Add the parameters from the service file; those of the URL take precedence."""
    name = given.get("service")
    own = {key: value for key, value in given.items() if key not in {"service", "servicefile"}}
    if not name:
        return own
    file = _service_file(given)
    services = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        services.read_string(read_file(file, _MAX_SERVICE_BYTES).decode())
    except (OSError, UnicodeDecodeError, configparser.Error):
        raise _ParameterError(f"service={name} needs the file {file}, which can't be read") from None
    if not services.has_section(name):
        raise _ParameterError(f"service={name} is not in {file}")
    return {**services[name], **own}


def _service_file(given: Mapping[str, str]) -> Path:
    named = given.get("servicefile") or os.environ.get("PGSERVICEFILE")
    return Path(named) if named else Path("~/.pg_service.conf").expanduser()


def _server_url(parts: SplitResult, given: Mapping[str, str], setting: str) -> ServerUrl:
    server_settings: dict[str, str] = {}
    parameters: dict[str, str] = {}
    for name, value in given.items():
        if name in _LIMITED or name.lower() == "timezone":
            _check_limited(name, value)
        elif name in _TO_DRIVER:
            parameters[name] = value
        elif name not in _TO_SOCKET | {"connect_timeout", "application_name", "fallback_application_name"}:
            _check_server_setting(name)
            server_settings[name] = value
    for name, words in _WORDS.items():
        if parameters.get(name, "") not in {"", *words}:
            raise _ParameterError(f"{name} must be one of {', '.join(sorted(words))}")
    address = _address(parts, parameters)
    _check_ports(address, parameters.get("port", ""))
    name = given.get("application_name") or given.get("fallback_application_name") or _NAME
    return ServerUrl(
        setting=setting,
        address=address,
        driver_url=parts._replace(
            query=urlencode(_with_value(parameters), safe="/", quote_via=quote)
        ).geturl(),
        parameters=_with_value(parameters),
        server_settings={**server_settings, "application_name": name, "timezone": "UTC"},
        socket_options={name: _number(given, name) for name in _TO_SOCKET & given.keys()},
        connect_seconds=_connect_seconds(given),
    )


def _address(parts: SplitResult, parameters: Mapping[str, str]) -> str:
    # The folder of a socket, and the host in a service file, are among the parameters.
    return parts.netloc.rpartition("@")[2] or parameters.get("host") or "localhost"


def _check_ports(hosts: str, ports: str) -> None:
    host_count, port_count = (listed.count(",") + 1 for listed in (hosts, ports))
    if port_count not in {1, host_count}:
        raise _ParameterError(
            f"port has {port_count} numbers for {host_count} hosts: give one for each, or one for all"
        )


def _with_value(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that have a value: libpq treats the others as absent."""
    return {name: value for name, value in parameters.items() if value}


def _check_limited(name: str, value: str) -> None:
    values, remedy = _LIMITED[name.lower()]
    if value and value.lower() not in values:
        # The message does not show the value of a parameter for which no value is accepted: it may be a
        # secret.
        raise _ParameterError(f"{name}{f'={value}' if values else ''} is not supported: {remedy}")


def _check_server_setting(name: str) -> None:
    if not _NAME_OF_SETTING.fullmatch(name):
        raise _ParameterError("one of the names behind the ? is neither a parameter nor a server setting")


def _connect_seconds(given: Mapping[str, str]) -> float:
    """Return the time-out of one attempt. In libpq, 0 and less mean no limit; here there always is one."""
    seconds = _number(given, "connect_timeout") if given.get("connect_timeout") else 0
    return min(float(seconds), _MAX_CONNECT_SECONDS) if seconds > 0 else _DEFAULT_CONNECT_SECONDS


def _number(given: Mapping[str, str], name: str) -> int:
    try:
        return int(given[name])
    except ValueError:
        raise _ParameterError(f"{name} must be a whole number") from None
