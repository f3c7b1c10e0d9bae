"""/health and /ready: the process is alive; the process can do its work. And /metrics, beside them.

/health fails only for what a restart would cure. An absent PostgreSQL is not among it: restarting would
bring nothing, and what was taken in is safest where it is. /ready tells of everything, and fails only for
what the work can't be done without.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from datastorage import metrics
from datastorage.api.listening import Listener

Check = Callable[[], Awaitable[str | None]]
"""Returns what is wrong in a sentence, or None."""

_OK: Final = "ok"


def health_server(
    *,
    addresses: str,
    port: int,
    health: Mapping[str, Check],
    ready: Mapping[str, Check],
    ready_notes: Mapping[str, Check],
) -> Listener:
    """Return the server of both. What ``ready_notes`` find wrong is told and does not make /ready fail."""
    app = web.Application()
    app.router.add_get("/health", _endpoint(health, {}))
    app.router.add_get("/ready", _endpoint(ready, ready_notes))
    return Listener(app, addresses=addresses, port=port, port_setting="DATASTORAGE_API_PORT")


def metrics_server(*, addresses: str, port: int) -> Listener:
    """Return the server of /metrics. The text takes some milliseconds, so that the loop can make it."""
    app = web.Application()
    app.router.add_get("/metrics", _metrics)
    return Listener(app, addresses=addresses, port=port, port_setting="DATASTORAGE_METRICS_PORT")


async def _metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    registry = metrics.REGISTRY
    chosen = request.query.getall("name[]", [])
    response = web.Response(body=encode(registry.restricted_registry(chosen) if chosen else registry))
    response.headers["Content-Type"] = content_type
    response.enable_compression()
    return response


def _endpoint(
    checks: Mapping[str, Check], notes: Mapping[str, Check]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        results: dict[str, Any] = {name: await check() or _OK for name, check in checks.items()}
        healthy = all(result == _OK for result in results.values())
        results |= {name: await note() or _OK for name, note in notes.items()}
        return web.json_response(
            {"status": _OK if healthy else "failing", "checks": results}, status=200 if healthy else 503
        )

    return answer
