"""What the test of the alerts needs: traffic of every kind, and a watch over what Prometheus says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any, Final

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.polling import until
from harness.prometheus.servers import Prometheus
from harness.rules.rendering import all_alerts

SECONDS: Final = 90.0
"""How long a test waits for an alert to fire or to end; a quiet machine needs a third of it at most."""
KEYS: Final = {alert.key: alert for alert in all_alerts()}


class AlertWatch:
    """Notes which alerts fire, and remembers which have fired."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self.fired: dict[str, dict[str, Any]] = {}
        """The alerts that have fired, as Prometheus' API showed them."""
        self.active: set[str] = set()
        """The alerts that are pending or firing now."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.2)

    async def look(self) -> None:
        """Look once."""
        found = await asyncio.to_thread(self._prometheus.api.alerts)
        self.active = {key_of(each) for each in found}
        self.fired.update((key_of(each), each) for each in found if each["state"] == "firing")

    @asynccontextmanager
    async def firing(self, *names: str) -> AsyncIterator[None]:
        """Wait until all alerts of these names have fired within the context, before it is left."""
        keys = keys_of(names)
        for key in keys:
            self.fired.pop(key, None)
        yield
        await until(lambda: self._all_fired(keys), seconds=SECONDS, what=f"these fire: {sorted(keys)}")

    async def ended(self, *names: str) -> None:
        """Wait until no alert of these names is pending or firing."""
        keys = keys_of(names)
        await until(lambda: self._none_active(keys), seconds=SECONDS, what=f"{sorted(keys)} have ended")

    async def _all_fired(self, keys: set[str]) -> "_None":
        return _None(keys - self.fired.keys())

    async def _none_active(self, keys: set[str]) -> "_None":
        return _None(keys & self.active)


class _None(frozenset[str]):
    """The alerts that are waited for: true when there is none left, and shown when time is over."""

    def __bool__(self) -> bool:
        return not len(self)


def keys_of(names: Collection[str]) -> set[str]:
    """Return the keys of all alerts of some names."""
    found = {key for key, alert in KEYS.items() if alert.name in names}
    assert {KEYS[key].name for key in found} == set(names)
    return found


def key_of(shown: dict[str, Any]) -> str:
    """Return the key of an alert that Prometheus shows."""
    labels = shown["labels"]
    told_apart = (f"{name}={labels[name]}" for name in ("long", "short") if name in labels)
    return " ".join([labels["alertname"], *told_apart])


class Traffic:
    """Creates objects, stores records by HTTP, and asks the archive, at a steady pace."""

    def __init__(self, bench: Workbench, client: BulkClient, api: ApiClient) -> None:
        self._bench = bench
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
            self.often(self._post, 0.15),
            self.often(self._ask, 0.1),
        ):
            yield

    @asynccontextmanager
    async def searching(self) -> AsyncIterator[None]:
        """Search by meaning in the background, each time with another question."""
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(self.often(self._search, 0.05))
            yield

    async def create(self, kind: str = "usual", **spec: Any) -> str:
        """Create one record as an object, and return its name, which begins with the kind."""
        name = f"{kind}-{next(self._numbers)}"
        await self._client.create(AUDIT_RECORD, self._bench.namespace, audit_record(name, **spec))
        return name

    @asynccontextmanager
    async def often(self, action: Callable[[], Awaitable[Any]], pause: float) -> AsyncIterator[None]:
        """Repeat an action in the background; a connection that breaks is of no account."""

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

    async def _post(self) -> None:
        spec = {"action": "restart", "phase": "Completed", "correlationID": "rr-1", "message": self.message}
        body = {"metadata": {"namespace": self._bench.namespace}, "spec": spec}
        await asyncio.to_thread(self._api.post, "/store/workflow", body)

    async def _ask(self) -> None:
        query = {"namespace": self._bench.namespace, "pageSize": "1"}
        await asyncio.to_thread(lambda: self._api.get("/query/records", None, **query))

    async def _search(self) -> None:
        query = {
            "namespace": self._bench.namespace,
            "q": f"question {next(self._numbers)}",
            "mode": "vector",
        }
        await asyncio.to_thread(lambda: self._api.get("/query/semantic", None, **query))
