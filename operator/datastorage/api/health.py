"""/health and /ready: the process is alive; the process can do its work.

/health fails only for what a restart would cure. PostgreSQL being away does not fail it: a restart would
change nothing, and what was taken in is safest where it is. /ready reports everything, and fails only for
what the work can't be done without.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from datastorage.api.answers import json_response
from datastorage.resilience.singleflight import SingleFlight

Check = Callable[[], Awaitable[str | None]]
"""Returns what is wrong in a sentence, or None."""

_OK: Final = "ok"


def health_routes(
    *, health: Mapping[str, Check], ready: Mapping[str, Check], notes: Mapping[str, Check]
) -> list[Route]:
    """Return the routes of both. Problems that ``notes`` find are shown and do not make /ready fail."""
    return [
        Route("/health", _endpoint(health, {}), methods=["GET"]),
        Route("/ready", _endpoint(ready, notes), methods=["GET"]),
    ]


def _endpoint(
    checks: Mapping[str, Check], notes: Mapping[str, Check]
) -> Callable[[Request], Awaitable[Response]]:
    # Anybody may ask. Each round of checks asks servers, so all who ask meanwhile get its results.
    under_way: SingleFlight[None, tuple[bool, dict[str, Any]]] = SingleFlight("checks")

    async def look() -> tuple[bool, dict[str, Any]]:
        results: dict[str, Any] = {name: await check() or _OK for name, check in checks.items()}
        healthy = all(result == _OK for result in results.values())
        return healthy, results | {name: await note() or _OK for name, note in notes.items()}

    async def answer(_: Request) -> Response:
        healthy, results = await under_way.do(None, look)
        return json_response(
            {"status": _OK if healthy else "failing", "checks": results},
            HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    return answer
