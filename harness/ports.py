"""Ports of this machine for servers of the harness.

Each process claims a block of ports and hands out every port in it once. So a server that is stopped for a
while finds its port free when it starts again, whatever other processes and tests start meanwhile.
"""

import random
import socket
from functools import cache
from typing import Final

# Below the ports that the system gives to outgoing connections (32768 and above on Linux): any of those may
# be taken between the choice of a port and its use, and a client that keeps dialling a stopped server there
# can end up connected to itself.
_PORTS: Final = range(20_000, 32_000)
_BLOCK_PORTS: Final = 1_000  # twelve processes at a time; one run of the whole suite takes some hundred ports

_given: Final[set[int]] = set()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now and was not returned before.

    Raises OSError if none is left.
    """
    ports = _own_ports()
    for port in random.sample(ports, len(ports)):
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port between {ports.start} and {ports.stop - 1}")


def is_free(port: int) -> bool:
    """Return whether a TCP port of 127.0.0.1 is free now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def has_ipv6() -> bool:
    """Return whether this machine has a loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@cache
def _own_ports() -> range:
    """Claim a block by listening on its first port until this process ends.

    When all blocks are claimed every port may be used, with a small risk of meeting another process.
    """
    for first in _PORTS[::_BLOCK_PORTS]:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
            claim.listen()
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return range(first + 1, first + _BLOCK_PORTS)
    return _PORTS


_claims: Final[list[socket.socket]] = []  # an open socket is closed when nothing refers to it any more
