"""Accepts the connections of a TLS port: each handshake is bounded in time, and all of them in number."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from datastorage import metrics
from datastorage.api.problems import MEDIA_TYPE, Problem
from datastorage.metrics import Handshake
from datastorage.query.encoding import encoded
from datastorage.resilience.cancellation import end_tasks

_log = logging.getLogger(__name__)

_BACKLOG: Final = 2048  # as uvicorn's: connections that the kernel keeps until they are accepted


@dataclass(frozen=True, slots=True)
class HandshakeLimits:
    """Limits for clients that have not finished their handshake."""

    seconds: float = 10.0
    """For one handshake. A client far away needs a second."""
    at_once: int = 100
    """Handshakes under way. One more ends the oldest, which has had the time of a hundred others."""
    full_seconds: float = 1.0
    """Between two attempts to accept while the process has no file descriptor left."""


class Handshakes:
    """The way into a TLS port. uvicorn's own would count a client only after its handshake."""

    def __init__(self, context: ssl.SSLContext, limits: HandshakeLimits = HandshakeLimits()) -> None:
        self._context = context
        self._limits = limits
        self._accepting: list[asyncio.Task[None]] = []
        self._under_way: dict[asyncio.Task[None], None] = {}

    def start(self, sockets: Sequence[socket.socket], make: Callable[[], asyncio.Protocol]) -> None:
        """Begin to accept. ``make`` returns the protocol of a connection whose handshake has succeeded."""
        for listener in sockets:
            listener.listen(_BACKLOG)
            listener.settimeout(0)  # as the loop requires
            self._accepting.append(asyncio.create_task(self._accept(listener, make), name="https"))

    async def close(self) -> None:
        """Accept nothing more, and end the handshakes under way."""
        await end_tasks([*self._accepting, *self._under_way])

    async def _accept(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    _log.error("No more connections can be accepted", extra={"error": str(error)})
                    await asyncio.sleep(self._limits.full_seconds)
                continue  # otherwise the client is gone already
            task = asyncio.create_task(self._shake(client, make))
            self._under_way[task] = None
            task.add_done_callback(self._forget)
            if len(self._under_way) > self._limits.at_once:
                metrics.LIMITS_HIT.labels(metrics.Limit.HANDSHAKES).inc()
                oldest = next(iter(self._under_way))
                self._forget(oldest)  # it ends later, and must not be chosen again
                oldest.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)

    async def _shake(self, client: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        spare = None
        try:
            # The loop closes its socket after a failure. The copy still reaches a client that speaks HTTP.
            spare = client.dup()
            await asyncio.get_running_loop().connect_accepted_socket(
                make,
                client,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.seconds,
                ssl_shutdown_timeout=self._limits.seconds,
            )
            metrics.HANDSHAKES.labels(Handshake.SUCCESS).inc()
        except OSError as error:  # an SSLError, an end of the connection, or no more file descriptors
            if getattr(error, "reason", None) == "HTTP_REQUEST" and spare is not None:
                metrics.HANDSHAKES.labels(Handshake.PLAIN_HTTP).inc()
                with suppress(OSError):
                    spare.send(_PLAIN_HTTP)
            else:
                _log.debug("A TLS handshake has failed", extra={"error": str(error)})
                is_slow = isinstance(error, ConnectionAbortedError)
                metrics.HANDSHAKES.labels(Handshake.TIMEOUT if is_slow else Handshake.FAILED).inc()
        except asyncio.CancelledError:
            metrics.HANDSHAKES.labels(Handshake.DROPPED).inc()
            raise
        finally:
            if spare is not None:
                spare.close()


def _plain_http() -> bytes:
    detail = "this port speaks TLS: use https:// instead of http://"
    problem = Problem(HTTPStatus.BAD_REQUEST, "tls-required", detail)
    body = encoded(problem.as_json())
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


_PLAIN_HTTP: Final = _plain_http()
