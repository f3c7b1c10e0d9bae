"""Traffic of every kind for an operator whose metrics are watched."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from datastorage.resources.kinds import AUDIT_RECORD
from harness.apiclient import ApiClient
from harness.bulk import BulkClient
from harness.manifests import audit_record


class Traffic:
    """Creates objects, stores records by HTTP, and asks the archive, at a steady pace."""

    def __init__(self, namespace: str, client: BulkClient, api: ApiClient) -> None:
        self._namespace = namespace
        self._client = client
        self._api = api
        self._numbers = count()
        self.message = "the same event"
        """The message of each record; ``{n}`` is its number."""

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send records and questions in the background."""
        async with (
            self.often(self._create, 0.04),
            self.often(self.post, 0.15),
            self.often(self._ask, 0.1),
        ):
            yield

    @asynccontextmanager
    async def searching(self, *, at_once: int = 3, pause: float = 0.05) -> AsyncIterator[None]:
        """Search by meaning in the background, each time with another question; ``pause`` is in seconds."""
        async with AsyncExitStack() as stack:
            for _ in range(at_once):
                await stack.enter_async_context(self.often(self._search, pause))
            yield

    async def create(self, kind: str = "usual", **spec: Any) -> str:
        """Create one record as an object, and return its name, which begins with the kind."""
        name = f"{kind}-{next(self._numbers)}"
        await self._client.create(AUDIT_RECORD, self._namespace, audit_record(name, **spec))
        return name

    @asynccontextmanager
    async def often(self, action: Callable[[], Awaitable[Any]], pause: float) -> AsyncIterator[None]:
        """Repeat an action in the background, each time after a pause in seconds.

        A connection that breaks is of no account.
        """

        async def repeat() -> None:
            while True:
                with contextlib.suppress(OSError):
                    await action()
                await asyncio.sleep(pause)

        task = asyncio.create_task(repeat())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _create(self) -> None:
        await self.create(message=self.message.format(n=next(self._numbers)))

    async def post(self, **spec: Any) -> None:
        """Send one record as a request; ``spec`` replaces single fields, and may make it a wrong one."""
        given = {"action": "restart", "phase": "Completed", "correlationID": "rr-1", "message": self.message}
        body = {"metadata": {"namespace": self._namespace}, "spec": given | spec}
        await asyncio.to_thread(self._api.post, "/store/workflow", body)

    async def _ask(self) -> None:
        query = {"namespace": self._namespace, "pageSize": "1"}
        await asyncio.to_thread(lambda: self._api.get("/query/records", None, **query))

    async def _search(self) -> None:
        query = {
            "namespace": self._namespace,
            "q": f"question {next(self._numbers)}",
            "mode": "vector",
        }
        await asyncio.to_thread(lambda: self._api.get("/query/semantic", None, **query))
