"""The two HTTP servers of the process: one for the API, one for the scrapers of metrics."""

from collections.abc import Sequence

from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from datastorage import metrics
from datastorage.api.listening import Listening
from datastorage.api.server import HttpServer


def api_server(routes: Sequence[BaseRoute], *, addresses: str, port: int) -> HttpServer:
    """Return the server of the API port."""
    listening = Listening(addresses=addresses, port=port, port_setting="DATASTORAGE_API_PORT")
    return HttpServer(Starlette(routes=routes), listening)


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
