"""The two HTTP servers of the process: one for the API, one for scrapers of metrics and for probes."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.telemetry import TelemetryConfig
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from datastorage import __version__, metrics
from datastorage.api.answers import json_response
from datastorage.api.atonce import AtOnce
from datastorage.api.certificate import ServingCertificate
from datastorage.api.listening import Listening
from datastorage.api.observed import Observed, Served
from datastorage.api.openapi import DESCRIPTION, TITLE, completed
from datastorage.api.problems import handle_errors
from datastorage.api.reference import html
from datastorage.api.replicalag import ReplicaLag
from datastorage.api.server import HttpServer, Limits
from datastorage.api.version import version
from datastorage.metrics import Method
from datastorage.tracing import NO_TRACES, Traces

# With the connections to other servers, fewer than the 1,024 files that a process may usually have open.
_CONNECTIONS: Final = 800
# Requests under way are never cut for others, so they must leave connections to the probes.
_REQUESTS_AT_ONCE: Final = 400

# The page has its style inside, and nothing else.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


_NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False,
}  # fmt: skip


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the document that describes the API; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema


def api_app(routers: Sequence[APIRouter], probes: Sequence[BaseRoute]) -> FastAPI:
    """Return the application of the API port; ``probes`` are the routes of /health and /ready."""
    app = _App(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        # FastAPI's pages load scripts from another server, and its document is made in the event loop.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would answer to the host that the client names, and without a problem.
        redirect_slashes=False,
        # Observed makes the spans. FastAPI's own would hold the texts of errors, and be there twice.
        telemetry=_NO_TELEMETRY,
    )
    handle_errors(app)
    app.add_api_route("/openapi.json", _openapi, include_in_schema=False)
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_api_route("/version", _version, include_in_schema=False)
    app.add_middleware(ReplicaLag)
    app.add_middleware(AtOnce, most=_REQUESTS_AT_ONCE, prefix="/api/")
    app.router.routes.extend(probes)
    for router in routers:
        app.include_router(router)
    app.state.routers = routers
    return app


# The document takes a quarter of a second. These two are no coroutines, so that a thread makes it.
def _openapi(request: Request) -> Response:
    return json_response(request.app.openapi())


async def _version() -> Response:
    return json_response(version())


def _docs(request: Request) -> Response:
    """Show the API reference. Whatever a text in it contains, a browser loads and runs nothing."""
    return HTMLResponse(html(request.app.openapi()), headers={"Content-Security-Policy": _POLICY})


def api_server(
    app: FastAPI,
    *,
    addresses: str,
    port: int,
    certificate: ServingCertificate | None = None,
    traces: Traces = NO_TRACES,
) -> HttpServer:
    """Return the server of the API port; with a certificate, it speaks TLS alone."""
    listening = Listening(addresses=addresses, port=port, port_setting="DATASTORAGE_API_PORT")
    observed = Observed(app, served=served(app), traces=traces)
    return HttpServer(observed, listening, Limits(connections=_CONNECTIONS), certificate)


def served(app: FastAPI) -> Iterator[Served]:
    """Yield all that the application serves."""
    # FastAPI's own list does not have the routes of the routers one by one.
    for route in chain(app.routes, *(router.routes for router in app.state.routers)):
        if isinstance(route, Route):
            statuses = frozenset(int(status) for status in getattr(route, "responses", ()))
            for method in sorted(route.methods or ()):
                yield Served(Method(method), route.path, statuses)


def metrics_server(probes: Sequence[BaseRoute], *, addresses: str, port: int) -> HttpServer:
    """Return the server of /metrics. Its text takes some milliseconds, short enough for the event loop.

    It has the probes as well: the clients of the API may take all connections of the other port.
    """
    listening = Listening(addresses=addresses, port=port, port_setting="DATASTORAGE_METRICS_PORT")
    app = Starlette(routes=[*probes, Route("/metrics", _Metrics(), methods=["GET"])])
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
