"""Which servers a URL names, in what order they are tried, and which of them will do for a writer."""

from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

from datastorage.errors import TransientError
from datastorage.storage.urls import ServerUrl, parameters_in

# Files that the driver reads whenever it connects. Their contents are exchanged as passwords are.
_FILE_OPTIONS: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_PREFER_STANDBY: Final = "prefer-standby"
_STATE: Final = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"


def attempts(url: ServerUrl, *, writable: bool) -> list[tuple[ServerUrl, str | None]]:
    """Return URLs of one host each, in their order, each with the kind of server that is looked for there.

    The kind is None where the URL itself says it. A writer finds out for itself, and says it in plain words.
    The driver can try several hosts, but gives all of them together the time that one of them may take, so
    that one silent host hides the others.
    """
    hosts = [replace(url, driver_url=one) for one in _one_host_each(url.driver_url)]
    if writable:
        return [(host, "any") for host in hosts]
    if len(hosts) > 1 and url.parameters.get("target_session_attrs") == _PREFER_STANDBY:
        return [(host, kind) for kind in ("standby", "any") for host in hosts]
    return [(host, None) for host in hosts]


def files_in(url: str) -> list[str]:
    """Return the paths of the files that a URL names."""
    options = parameters_in(urlsplit(url).query)
    return [options[name] for name in _FILE_OPTIONS if name in options]


async def refuse_read_only(connection: Any, server: str, *, timeout_seconds: float) -> None:
    """Raise TransientError unless the session may write, as far as its server's state goes."""
    standby, read_only = await connection.fetchrow(_STATE, timeout=timeout_seconds)
    if standby:
        raise TransientError(f"{server} is a read-only standby, and the primary is needed")
    if read_only:
        raise TransientError(f"{server} lets nobody write: default_transaction_read_only is on")


def _one_host_each(url: str) -> list[str]:
    parts = urlsplit(url)
    user, at, netloc = parts.netloc.rpartition("@")
    if netloc:
        return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in netloc.split(",")]
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    hosts, ports = options.get("host", "").split(","), options.get("port", "").split(",")
    if len(hosts) == 1:
        return [url]
    if len(ports) == 1:
        ports *= len(hosts)
    chosen = [
        options | {"host": host} | ({"port": port} if port else {})
        for host, port in zip(hosts, ports, strict=False)
    ]
    return [urlunsplit(parts._replace(query=urlencode(each, safe="/", quote_via=quote))) for each in chosen]
