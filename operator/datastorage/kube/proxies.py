"""Finds the proxy to the API server, in the kubeconfig or in the environment.

The environment is read as in Go programs such as kubectl: HTTPS_PROXY for https, HTTP_PROXY for http,
NO_PROXY with names, addresses and networks, and no proxy for this machine itself.
"""

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from yarl import URL

from datastorage.errors import ConfigurationError

_SCHEMES: Final = ("http", "https")
# The length is limited to that of real schemes: the text before "://" in a broken URL may be a password.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9]{1,7})://")


def checked_proxy(url: str, setting: str) -> str:
    """Return the proxy's URL. Raises ConfigurationError, which names ``setting`` and no part of the URL."""
    try:
        proxy = URL(url)
        has_host = bool(proxy.host) and proxy.port is not None
    except ValueError:
        has_host = False
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() not in _SCHEMES:
        raise ConfigurationError(
            f"{setting} names a proxy of the kind {scheme[0]}, which is not supported: "
            "use an http:// or https:// proxy"
        )
    if not has_host:
        raise ConfigurationError(f"{setting} is not the URL of a proxy: give it in the form http://host:port")
    return url


def environment_proxy(server: URL, environment: Mapping[str, str]) -> str | None:
    """Return the proxy that the environment sets for this server, or None. Raises ConfigurationError."""
    upper = f"{server.scheme.upper()}_PROXY"
    name = next((name for name in (upper, upper.lower()) if environment.get(name)), None)
    if name is None or _bypassed(server, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    value = environment[name].strip()
    return checked_proxy(value if "://" in value else f"http://{value}", name)


def _bypassed(server: URL, no_proxy: str) -> bool:
    host = (server.host or "").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, server.port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: int | None) -> bool:
    if entry in {"", "*"}:
        return entry == "*"
    address = _address(host)
    if "/" in entry:
        with suppress(ValueError):
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        return False
    name, entry_port = _split_port(entry)
    if entry_port is not None and entry_port != str(port):
        return False
    if address is not None or _address(name) is not None:
        return _address(name) == address
    domain = name.removeprefix("*")
    return host.endswith(domain if domain.startswith(".") else f".{domain}") or host == domain


def _split_port(entry: str) -> tuple[str, str | None]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":") or None
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
