"""Keeps the API server's troubles away from Kopf, which gives up on some of them and logs each attempt.

Kopf looks for the resource once, when it starts, and ends when a watch request is answered with 404, 410 or
an error that lasts. Here each of its requests is repeated until it can be answered: the first ones are held
until the definition is there, and a watch request until the API server accepts it.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, NoReturn

import aiohttp

from datastorage.errors import ClusterError
from datastorage.kube.transport import message_of
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.resources import API_VERSION, GROUP, ResourceKind

# A watch that the server closes at once is asked for again at once by Kopf. This keeps such a loop at
# one request a second, whatever closes it.
_WATCH_INTERVAL_SECONDS: Final = 1.0
# Between two attempts. A definition is made and served within a second or two; looking for it is one cheap
# request.
_FIRST_PAUSE_SECONDS: Final = 0.25
_MAX_PAUSE_SECONDS: Final = 2.0
# The API server may ask for a longer pause, up to this.
_MAX_ASKED_PAUSE_SECONDS: Final = 10.0
# For the headers of an answer, and for the whole of a short one. Less than Kopf's inactivity time-out.
_ANSWER_SECONDS: Final = 30.0
# Refusals that pass by themselves: the token is renewed, the server is busy.
_PASSING: Final = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)
_GROUPS: Final = "/apis"
_RESOURCES: Final = f"/apis/{API_VERSION}"


class Patience:
    """Repeats the requests of the Kopf that watches one kind."""

    def __init__(
        self,
        kind: ResourceKind,
        monitor: WatchMonitor,
        *,
        on_recovery: Callable[[ResourceKind, bool], None],
        on_gone: Callable[[], None],
    ) -> None:
        """``on_recovery`` is told when a watch is open after trouble, and whether the definition is new.

        ``on_gone`` is told when the watch can't go on from where it was: Kopf has to begin anew.
        """
        self._kind = kind
        self._monitor = monitor
        self._on_recovery = on_recovery
        self._on_gone = on_gone
        self._last_watch: dict[str, float] = {}

    async def answer(
        self, path: str, send: Callable[[], Awaitable[aiohttp.ClientResponse]], *, watches: bool
    ) -> aiohttp.ClientResponse:
        """Return the first answer that Kopf can go on with."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            if watches:
                await self._pace(path)
            asked_pause = 0.0
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    response = await send()
                    if watches and response.ok:
                        self._opened(path)
                        return response
                    answer = await response.read()
            except (aiohttp.ClientError, OSError, TimeoutError, ClusterError) as error:
                reason = str(error) or f"no answer ({type(error).__name__})"
                self._failed(path, None, reason, watches=watches)
            else:
                if watches and response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
                    await self._begin_anew(response.status)
                if not watches and self._is_usable(path, response.status, answer):
                    return response
                if response.status >= HTTPStatus.BAD_REQUEST and response.status != HTTPStatus.NOT_FOUND:
                    reason = f"API server ({response.status}): {message_of(answer)}"
                    self._failed(path, response.status, reason, watches=watches)
                asked_pause = _asked_pause(response)
            await asyncio.sleep(max(pause * random.uniform(0.5, 1.0), asked_pause))  # noqa: S311  # jitter is no secret
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def _pace(self, path: str) -> None:
        pause = self._last_watch.get(path, 0.0) + _WATCH_INTERVAL_SECONDS - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_watch[path] = time.monotonic()

    def _opened(self, path: str) -> None:
        troubled, is_new = self._monitor.opened(path), self._monitor.defined(self._kind)
        if troubled or is_new:
            self._on_recovery(self._kind, is_new)

    def _failed(self, path: str, status: int | None, reason: str, *, watches: bool) -> None:
        refused = status is not None and 400 <= status < 500 and status not in _PASSING
        busy = status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
        if not watches:
            self._monitor.failed_all(self._kind, reason, refused=refused, busy=busy)
            return
        self._monitor.failed(path, reason, refused=refused, busy=busy)
        # Any answer but 404 says that the kind is served.
        if status is not None and self._monitor.defined(self._kind):
            self._on_recovery(self._kind, True)  # noqa: FBT003  # the callback's only flag

    async def _begin_anew(self, status: int) -> NoReturn:
        if status == HTTPStatus.NOT_FOUND:
            self._monitor.undefined(self._kind)
        self._on_gone()
        await asyncio.Event().wait()  # until this Kopf is ended
        raise AssertionError

    def _is_usable(self, path: str, status: int, answer: bytes) -> bool:
        """Whether Kopf finds what it needs in an answer about what the API server serves.

        It passes over a kind that is not there yet, and never looks again.
        """
        if path not in {_GROUPS, _RESOURCES}:
            return status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.NOT_FOUND
        if status >= HTTPStatus.BAD_REQUEST and status != HTTPStatus.NOT_FOUND:
            return False
        served = status < HTTPStatus.BAD_REQUEST and _serves(path, answer, self._kind)
        if not served:
            self._monitor.undefined(self._kind)
        return served


def _serves(path: str, answer: bytes, kind: ResourceKind) -> bool:
    try:
        body: Any = json.loads(answer)
        if path == _GROUPS:
            versions = [
                version["groupVersion"] for group in body["groups"] if group["name"] == GROUP
                for version in group["versions"]
            ]  # fmt: skip
            return API_VERSION in versions
        return any(
            resource["name"] == kind.plural and "watch" in resource["verbs"] for resource in body["resources"]
        )
    except (ValueError, LookupError, TypeError):
        return False  # no answer of an API server


def _asked_pause(response: aiohttp.ClientResponse) -> float:
    try:
        return min(float(response.headers.get("Retry-After", 0)), _MAX_ASKED_PAUSE_SECONDS)
    except ValueError:
        return 0.0  # a date
