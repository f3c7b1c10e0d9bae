"""Names, counts and measures every request, and logs those that failed."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datastorage import metrics
from datastorage.api.requestid import RAW_HEADER, RequestName, name_of, noted_failure
from datastorage.metrics import OTHER, Method
from datastorage.tracing import NO_TRACES, RequestTrace, Traces, serving

_log = logging.getLogger(__name__)

# Any route may answer with these: a success, a fault of this program, and too many requests under way.
_USUAL: Final = frozenset({200, 500, 503})
_UNSERVED: Final = frozenset({404, 405})
BODILESS: Final = frozenset({Method.GET, Method.HEAD})
"""The methods of requests without a body."""
_FAILED: Final = 500
# /ready answers 503 every few seconds while something is wrong, and the log says what that is.
_API: Final = "/api/"
_PATH_CHARACTERS: Final = 200  # in the log and in a span


@dataclass(frozen=True, slots=True)
class Served:
    """A method that the API serves at a route; ``statuses`` are those that its description names."""

    method: Method
    route: str
    statuses: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class LogPace:
    """How many failed requests are logged as warnings."""

    lines: int = 20
    """In one period. While PostgreSQL is away, every request fails; the first ones say it all."""
    seconds: float = 10.0
    """The period. The first line of the next one says how many were left out."""


def counted(served: Iterable[Served]) -> Iterator[Served]:
    """Yield all that requests are counted by, with all statuses but ``_OTHER``."""
    yield from (replace(each, statuses=each.statuses | _USUAL) for each in served)
    yield from (Served(method, OTHER, _UNSERVED | _USUAL) for method in Method)


class Observed:
    """An application around another one, which it observes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        served: Iterable[Served],
        pace: LogPace = LogPace(),
        traces: Traces = NO_TRACES,
    ) -> None:
        """A request that is none of those ``served`` counts with the route ``_OTHER``."""
        self._app = app
        self._traces = traces
        self._warnings = _Warnings(pace)
        self._series = {(each.method.value, each.route): _Series(each) for each in counted(served)}
        # The router names the route of a request only if it has parameters.
        self._paths = frozenset(route for _, route in self._series if "{" not in route)
        self._active = {method.value: metrics.HTTP_ACTIVE.labels(method) for method in Method}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = name_of(scope["headers"])
        trace = self._trace(scope, name)
        name.begin(trace)
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

        method = scope["method"] if scope["method"] in self._active else OTHER
        active = self._active[method]
        active.inc()
        started = time.perf_counter()
        try:
            with serving(trace):
                await self._app(scope, receive, observe)
        finally:
            active.dec()
            if status:  # otherwise the connection or the process ended before an answer
                self._note(scope, method, _Answer(status, size, time.perf_counter() - started, trace))
            name.end()

    def _trace(self, scope: Scope, name: RequestName) -> RequestTrace | None:
        """Begin the trace of a request. Probes have none: they would be most of what is recorded."""
        if not scope["path"].startswith(_API):
            return None
        return self._traces.request(name.trace_id, name.span_id, is_sampled=name.is_sampled)

    def _note(self, scope: Scope, method: str, answer: "_Answer") -> None:
        route, status, seconds = self._route(scope), answer.status, answer.seconds
        series = self._series.get((method, route)) or self._series[method, OTHER]
        series.note(scope, answer)
        if answer.trace is not None:
            self._traces.answered(
                answer.trace,
                method=method,
                route=route,
                path=_path(scope),
                scheme=scope["scheme"],
                status=status,
            )
        if status >= _FAILED and route.startswith(_API):
            reason = noted_failure()
            because = {} if reason is None else {"error": reason}
            self._warnings.add(_fields(scope, route, status, seconds) | because)
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("Request", extra=_fields(scope, route, status, seconds))

    def _route(self, scope: Scope) -> str:
        template = getattr(scope.get("route"), "path", None)
        if template is None:
            template = scope["path"] if scope["path"] in self._paths else OTHER
        return str(template)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is known of a request when it has been answered; sizes in bytes."""

    status: int
    size: int
    seconds: float
    trace: RequestTrace | None


class _Series:
    """The time series of a method and route."""

    def __init__(self, served: Served) -> None:
        method, route = served.method, served.route
        self._duration = metrics.HTTP_DURATION.declare(method, route)
        self._answer_size = metrics.HTTP_ANSWER_SIZE.declare(method, route)
        self._body_size = None if method in BODILESS else metrics.HTTP_BODY_SIZE.declare(method, route)
        self._statuses = {
            status: metrics.HTTP_TOTAL.declare(method, route, str(status))
            for status in sorted(served.statuses)
        }
        self._other_status = metrics.HTTP_TOTAL.declare(method, route, OTHER)

    def note(self, scope: Scope, answer: _Answer) -> None:
        """Count a request that was answered."""
        self._statuses.get(answer.status, self._other_status).inc()
        self._duration.observe(answer.seconds, None if answer.trace is None else answer.trace.exemplar)
        self._answer_size.observe(answer.size)
        if self._body_size is not None and (sent := _announced(scope)):
            self._body_size.observe(sent)


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
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # digits: h11 has refused anything else
    return 0


def _path(scope: Scope) -> str:
    # As it was sent, so that it has no line breaks. Its query is left out: it may hold the words of a search.
    path: bytes = scope.get("raw_path", b"")
    return path.decode("ascii", "replace")[:_PATH_CHARACTERS]


def _fields(scope: Scope, route: str, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "method": scope["method"],
        "route": route,
        "path": _path(scope),
        "status": status,
        "seconds": round(seconds, 4),
        "client": client[0] if client else None,
    }
