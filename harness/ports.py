"""Ports of this machine for servers of the tests."""

import random
import socket
from typing import Final

import pytest

# Below those that the system gives to outgoing connections (32768 and above on Linux), any of which may be
# taken between the choice of a port and its use.
_PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if is_free(port):
            return port
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop - 1}")


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a TCP port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6: Final = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
