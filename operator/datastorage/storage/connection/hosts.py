"""Splits a URL into one for each host, in the order of the attempts, and detects a host that is read-only."""

from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from datastorage.errors import TransientError
from datastorage.storage.connection.urls import ServerUrl

_PREFER_STANDBY: Final = "prefer-standby"
_STATE: Final = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"


def attempts(url: ServerUrl, *, writable: bool) -> list[tuple[ServerUrl, str | None]]:
    """Return URLs of one host each, in the order of the attempts, with the kind of server to accept there.

    The kind is None if the URL's own target_session_attrs applies. With ``writable`` it is "any", because
    ``refuse_read_only`` gives a plainer error than the driver. The driver can try several hosts by itself,
    but all of them together get the time of one attempt, so that a silent host would prevent the others'
    attempts.
    """
    hosts = [replace(url, driver_url=host_url) for host_url in _urls_of_one_host(url.driver_url)]
    if writable:
        return [(host, "any") for host in hosts]
    if len(hosts) > 1 and url.parameters.get("target_session_attrs") == _PREFER_STANDBY:
        return [(host, kind) for kind in ("standby", "any") for host in hosts]
    return [(host, None) for host in hosts]


async def refuse_read_only(connection: asyncpg.Connection, server: str, *, timeout_seconds: float) -> None:
    """Raise TransientError, which names the server, if it is a standby or read-only."""
    [(standby, read_only)] = await connection.fetch(_STATE, timeout=timeout_seconds)
    if standby:
        raise TransientError(f"{server} is a read-only standby, and the primary is needed")
    if read_only:
        raise TransientError(f"{server} accepts no writes: default_transaction_read_only is on")


def _urls_of_one_host(url: str) -> list[str]:
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
    queries = [
        options | {"host": host} | ({"port": port} if port else {})
        for host, port in zip(hosts, ports, strict=False)
    ]
    encoded = [urlencode(query, safe="/", quote_via=quote) for query in queries]
    return [urlunsplit(parts._replace(query=query)) for query in encoded]
