"""Names, counts and measures every request, and logs those that failed."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datastorage import metrics
from datastorage.api.requestid import RAW_HEADER, name_of

_log = logging.getLogger(__name__)

_OTHER: Final = "_OTHER"
"""The label of every method and path that this API does not know, as OpenTelemetry names it."""
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY"}
)
_FAILED: Final = 500
# /ready answers 503 every few seconds while something is wrong, and the log says what that is.
_API: Final = "/api/"
_PATH_CHARACTERS: Final = 200  # in the log


@dataclass(frozen=True, slots=True)
class LogPace:
    """How many failed requests are logged as warnings."""

    lines: int = 20
    """In one period. While PostgreSQL is away, every request fails; the first ones say it all."""
    seconds: float = 10.0
    """The period. The first line of the next one says how many were left out."""


class Observed:
    """An application around another one, which it observes."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], pace: LogPace = LogPace()) -> None:
        """``paths`` are those of routes without parameters; the router itself names only some of them."""
        self._app = app
        self._paths = frozenset(paths)
        self._warnings = _Warnings(pace)
        # Looking a series up by its labels takes longer than all the rest here.
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._active = {method: metrics.HTTP_ACTIVE.labels(method) for method in sorted({*_METHODS, _OTHER})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = name_of(scope["headers"])
        name.begin()
        own_header = (RAW_HEADER, name.id.encode())
        status = size = 0

        async def observe(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], own_header]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        active = self._active[method]
        active.inc()
        started = time.perf_counter()
        try:
            await self._app(scope, receive, observe)
        finally:
            active.dec()
            if status:  # otherwise the connection or the process ended before an answer
                self._note(scope, method, status, size, time.perf_counter() - started)
            name.end()

    def _note(self, scope: Scope, method: str, status: int, size: int, seconds: float) -> None:
        route = self._route(scope)
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(*key)
        series.duration.observe(seconds)
        series.answer_size.observe(size)
        sent = _announced(scope)
        if sent:
            series.body_size.observe(sent)
        if status >= _FAILED and route.startswith(_API):
            self._warnings.add(_fields(scope, route, status, seconds))
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("Request", extra=_fields(scope, route, status, seconds))

    def _route(self, scope: Scope) -> str:
        template = getattr(scope.get("route"), "path", None)
        if template is None:
            template = scope["path"] if scope["path"] in self._paths else _OTHER
        return str(template)


class _Series:
    """The time series of one method, route and status."""

    def __init__(self, method: str, route: str, status: int) -> None:
        self.duration = metrics.HTTP_DURATION.labels(method, route, str(status))
        self.body_size = metrics.HTTP_BODY_SIZE.labels(method, route)
        self.answer_size = metrics.HTTP_ANSWER_SIZE.labels(method, route)


class _Warnings:
    """Logs failed requests, at most some in each period."""

    def __init__(self, pace: LogPace) -> None:
        self._pace = pace
        self._begun = float("-inf")
        self._lines = 0

    def add(self, fields: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._begun >= self._pace.seconds:
            left_out = self._lines - self._pace.lines
            if left_out > 0:
                fields["left_out"] = left_out
            self._begun, self._lines = now, 0
        self._lines += 1
        if self._lines <= self._pace.lines:
            _log.warning("Request failed", extra=fields)


def _announced(scope: Scope) -> int:
    """Return the length of the body, as the request says it; 0 if it does not."""
    if scope["method"] in {"GET", "HEAD"}:
        return 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # digits: h11 has refused anything else
    return 0


def _fields(scope: Scope, route: str, status: int, seconds: float) -> dict[str, Any]:
    # The path as it was sent has no line breaks. Its query is left out: it may hold the words of a search.
    client = scope.get("client")
    return {
        "method": scope["method"],
        "route": route,
        "path": scope.get("raw_path", b"").decode("ascii", "replace")[:_PATH_CHARACTERS],
        "status": status,
        "seconds": round(seconds, 4),
        "client": client[0] if client else None,
    }
