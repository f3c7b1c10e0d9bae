"""The sockets of the HTTP servers: all of them listen on the same addresses."""

import asyncio
import errno
import os
import socket
from typing import Any, Final

from datastorage.errors import ConfigurationError

_ADDRESS_SETTING: Final = "DATASTORAGE_LISTEN_ADDRESS"
_NOT_ON_THIS_MACHINE: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_Place = tuple[int, tuple[Any, ...]]
"""An address family and an address, in the form of the socket library."""


class Listening:
    """A port on all addresses that the setting names."""

    def __init__(self, *, addresses: str, port: int, port_setting: str) -> None:
        """``addresses`` are separated by commas; an empty text means all addresses of this machine."""
        self._addresses = addresses
        self._port = port
        self._port_setting = port_setting

    async def open(self) -> list[socket.socket]:
        """Return bound sockets. Raises ConfigurationError, which names the setting and the address."""
        names = [name for text in self._addresses.split(",") if (name := text.strip().strip("[]"))]
        if not names:
            return [self._open_any()]
        found = [(name, await self._resolved(name)) for name in names]
        # One socket can serve both families, unless another one has the same port of IPv4.
        dual = not any(family == socket.AF_INET for _, places in found for family, _ in places)
        bound: dict[_Place, socket.socket] = {}
        try:
            for name, places in found:
                self._open_all(name, places, bound, dual=dual)
        except ConfigurationError:
            for opened in bound.values():
                opened.close()
            raise
        return list(bound.values())

    def _open_any(self) -> socket.socket:
        try:
            return _open(socket.AF_INET6, ("::", self._port), dual=True)
        except OSError as error:
            if error.errno not in _NOT_ON_THIS_MACHINE:
                raise self._refusal("::", error) from error
        try:  # a kernel without IPv6
            return _open(socket.AF_INET, ("0.0.0.0", self._port), dual=False)  # noqa: S104
        except OSError as error:
            raise self._refusal("0.0.0.0", error) from error  # noqa: S104

    def _open_all(
        self, name: str, places: list[_Place], bound: dict[_Place, socket.socket], *, dual: bool
    ) -> None:
        """Open one socket for each address that a name resolves to.

        Addresses that this machine does not have are skipped, as long as the name has others.
        """
        trouble: list[tuple[str, OSError]] = []
        for family, place in places:
            if (family, place) in bound:
                continue
            try:
                bound[family, place] = _open(family, place, dual=dual)
            except OSError as error:
                trouble.append((str(place[0]), error))
        for address, cause in trouble:
            if cause.errno not in _NOT_ON_THIS_MACHINE or len(trouble) == len(places):
                label = address if address == name else f"{name} ({address})"
                raise self._refusal(label, cause) from cause

    async def _resolved(self, name: str) -> list[_Place]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                name, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a host name"
            raise ConfigurationError(f"{_ADDRESS_SETTING}: {name!r} can't be resolved: {why}") from error
        return [(family, place) for family, _, _, _, place in found]

    def _refusal(self, address: str, error: OSError) -> ConfigurationError:
        if error.errno in _NOT_ON_THIS_MACHINE:
            return ConfigurationError(f"{_ADDRESS_SETTING}: {address} is not an address of this machine")
        why = os.strerror(error.errno or 0)
        return ConfigurationError(
            f"{self._port_setting}: cannot listen on port {self._port} of {address}: {why}; "
            "choose another port, or stop the program that uses it"
        )


def _open(family: int, place: tuple[Any, ...], *, dual: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = dual and place[0] == "::"
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        opened.bind(place)
    except OSError:
        opened.close()
        raise
    return opened
