"""Hides failures of the API server from Kopf, which gives up on some of them and logs each attempt.

Kopf looks for the resource once, when it starts, and ends when a watch request is answered with 404, 410 or a
lasting error. Here each of its requests is repeated until there is an answer that Kopf can use: the first
ones wait until the API server serves the definition, and a watch request waits until it is accepted.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn

import aiohttp

from datastorage.errors import ClusterError
from datastorage.kube.answers import TEMPORARY, refusal
from datastorage.kube.watchmonitor import WatchMonitor
from datastorage.resilience.backoff import Backoff
from datastorage.resources.kinds import API_VERSION, GROUP, ResourceKind

_GROUPS: Final = "/apis"
_RESOURCES: Final = f"/apis/{API_VERSION}"


@dataclass(frozen=True, slots=True)
class RequestPace:
    """How often Kopf's requests are sent."""

    watch_interval_seconds: float = 1.0
    """Kopf repeats a watch at once when the server closes it. This is the minimum time between two requests,
    whatever closed the watch."""
    first_pause_seconds: float = 0.25
    """Between two attempts. A new definition is served within a second or two, and looking for it is one
    cheap request."""
    max_pause_seconds: float = 2.0
    max_asked_pause_seconds: float = 10.0
    """The limit on longer pauses that the API server asks for."""
    answer_seconds: float = 30.0
    """For the headers of an answer, and for the whole of a short one. It is less than Kopf's inactivity
    time-out."""


class WatchRetry:
    """Repeats the requests of the Kopf operator that watches one kind."""

    def __init__(
        self,
        kind: ResourceKind,
        monitor: WatchMonitor,
        *,
        on_recovery: Callable[[ResourceKind, bool], None],
        on_gone: Callable[[], None],
        pace: RequestPace = RequestPace(),
    ) -> None:
        """``on_recovery`` is called when a watch is open after trouble, with True if the definition is new.

        ``on_gone`` is called when the watch can't be resumed, so that Kopf has to be started again.
        """
        self._pace = pace
        self._kind = kind
        self._monitor = monitor
        self._on_recovery = on_recovery
        self._on_gone = on_gone
        self._last_watch: dict[str, float] = {}

    async def answer(
        self, path: str, send: Callable[[], Awaitable[aiohttp.ClientResponse]], *, watches: bool
    ) -> aiohttp.ClientResponse:
        """Return the first answer that Kopf can use."""
        backoff = Backoff(self._pace.first_pause_seconds, self._pace.max_pause_seconds)
        while True:
            if watches:
                await self._space_out(path)
            asked_pause = 0.0
            try:
                async with asyncio.timeout(self._pace.answer_seconds):
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
                    await self._start_again(response.status)
                if not watches and self._is_usable(path, response.status, answer):
                    return response
                if response.status >= HTTPStatus.BAD_REQUEST and response.status != HTTPStatus.NOT_FOUND:
                    self._failed(path, response.status, refusal(response.status, answer), watches=watches)
                asked_pause = min(_asked_pause(response), self._pace.max_asked_pause_seconds)
            await asyncio.sleep(max(backoff.next(), asked_pause))

    async def _space_out(self, path: str) -> None:
        pause = self._last_watch.get(path, 0.0) + self._pace.watch_interval_seconds - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_watch[path] = time.monotonic()

    def _opened(self, path: str) -> None:
        troubled, is_new = self._monitor.opened(path), self._monitor.defined(self._kind)
        if troubled or is_new:
            self._on_recovery(self._kind, is_new)

    def _failed(self, path: str, status: int | None, reason: str, *, watches: bool) -> None:
        refused = status is not None and 400 <= status < 500 and status not in TEMPORARY
        busy = status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
        if not watches:
            self._monitor.failed_all(self._kind, reason, refused=refused, busy=busy)
            return
        self._monitor.failed(path, reason, refused=refused, busy=busy)
        # Any answer but 404 means that the kind is served.
        if status is not None and self._monitor.defined(self._kind):
            self._on_recovery(self._kind, True)  # noqa: FBT003  # the callback's only flag

    async def _start_again(self, status: int) -> NoReturn:
        if status == HTTPStatus.NOT_FOUND:
            self._monitor.undefined(self._kind)
        self._on_gone()
        await asyncio.Event().wait()  # until this task is cancelled with its Kopf operator
        raise AssertionError

    def _is_usable(self, path: str, status: int, answer: bytes) -> bool:
        """Return whether a discovery answer contains what Kopf needs.

        Kopf ignores a kind that is not served yet, and never looks for it again.
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
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # not an answer of an API server


def _asked_pause(response: aiohttp.ClientResponse) -> float:
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0  # a date
