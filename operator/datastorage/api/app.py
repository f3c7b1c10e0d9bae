"""The two HTTP servers of the process: one for the API, one for the scrapers of metrics."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from datastorage import __version__, metrics
from datastorage.api.atonce import AtOnce
from datastorage.api.listening import Listening
from datastorage.api.problems import handle_errors
from datastorage.api.server import HttpServer, Limits

# With the connections to other servers, fewer than the 1,024 files that a process may usually have open.
_CONNECTIONS: Final = 800
# Requests under way are never cut for others, so they must leave connections to the probes.
_REQUESTS_AT_ONCE: Final = 400

_DESCRIPTION: Final = """\
Stores what controllers did, and answers questions about it. Every record that is acknowledged is in
PostgreSQL.

Send the token of a Kubernetes ServiceAccount as `Authorization: Bearer`. What a caller may store and read
follows from its rights in the cluster."""


def api_app(routers: Sequence[APIRouter], probes: Sequence[BaseRoute]) -> FastAPI:
    """Return the application of the API port; ``probes`` are the routes of /health and /ready."""
    app = FastAPI(
        title="Kubernaut Data Storage",
        version=__version__,
        description=_DESCRIPTION,
        # Their pages load scripts from another server.
        docs_url=None,
        redoc_url=None,
        # A redirect would answer to the host that the client names, and without a problem.
        redirect_slashes=False,
    )
    handle_errors(app)
    app.add_middleware(AtOnce, most=_REQUESTS_AT_ONCE, prefix="/api/")
    app.router.routes.extend(probes)
    for router in routers:
        app.include_router(router)
    return app


def api_server(app: ASGIApp, *, addresses: str, port: int) -> HttpServer:
    """Return the server of the API port."""
    listening = Listening(addresses=addresses, port=port, port_setting="DATASTORAGE_API_PORT")
    return HttpServer(app, listening, Limits(connections=_CONNECTIONS))


def metrics_server(*, addresses: str, port: int) -> HttpServer:
    """Return the server of /metrics. Its text takes some milliseconds, short enough for the event loop."""
    listening = Listening(addresses=addresses, port=port, port_setting="DATASTORAGE_METRICS_PORT")
    app = Starlette(routes=[Route("/metrics", _Metrics(), methods=["GET"])])
    return HttpServer(app, listening)


class _Metrics:
    """Wraps the library's ASGI application: Starlette would call a plain function with a request."""

    def __init__(self) -> None:
        self._app: ASGIApp = make_asgi_app(metrics.REGISTRY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except UnicodeDecodeError:  # raised before anything is sent: the library decodes the headers first
            await PlainTextResponse("a header is not text\n", 400)(scope, receive, send)
