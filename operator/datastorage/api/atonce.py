"""Bounds the requests to the API that are under way, so that the probes always get a connection."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from datastorage import metrics
from datastorage.api.allowances import ENDINGS
from datastorage.api.problems import problem_of
from datastorage.errors import OverloadedError


class AtOnce:
    """An application that answers 503 beyond a number of requests; the probes do not count."""

    def __init__(self, app: ASGIApp, *, most: int, prefix: str) -> None:
        """``prefix`` is that of the paths that count."""
        self._app = app
        self._most = most
        self._prefix = prefix
        self._under_way = 0
        self._hit = metrics.LIMITS_HIT.labels(metrics.Limit.REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            self._hit.inc()
            busy = OverloadedError("too many requests are under way: send the request again later")
            await problem_of(busy).response()(scope, receive, send)
            return
        self._under_way += 1
        endings: list[Callable[[], None]] = []
        token = ENDINGS.set(endings)
        try:
            await self._app(scope, receive, send)
        finally:
            ENDINGS.reset(token)
            self._under_way -= 1
            for end in endings:
                end()
