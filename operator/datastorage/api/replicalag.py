"""Says in a header of each answer by how much the standby that gave it lags behind."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datastorage.query.standbyqueries import FRESHNESS, Freshness

HEADER: Final = "Datastorage-Replica-Lag"
_NAME: Final = HEADER.lower().encode()


class ReplicaLag:
    """An application that adds the header to the answers of questions, where a standby is named."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        freshness = Freshness()

        async def send_with_lag(message: Message) -> None:
            if message["type"] == "http.response.start" and freshness.lag_seconds is not None:
                value = f"{freshness.lag_seconds:.3f}".encode()
                message = {**message, "headers": [*message["headers"], (_NAME, value)]}
            await send(message)

        token = FRESHNESS.set(freshness)
        try:
            await self._app(scope, receive, send_with_lag)
        finally:
            FRESHNESS.reset(token)
