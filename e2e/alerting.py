"""What the test of the alerts needs: traffic of every kind, and a watch over what Prometheus says."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

from harness.polling import until
from harness.prometheus.client import PrometheusClient
from harness.rules.rendering import all_alerts

SECONDS: Final = 300.0
"""How long a test waits for alerts to fire or to end: a quiet machine needs a tenth of it at most."""
KEYS: Final = {alert.key: alert for alert in all_alerts()}


class AlertWatch:
    """Notes which alerts fire, and remembers which have fired."""

    def __init__(self, prometheus: PrometheusClient) -> None:
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
        found = await asyncio.to_thread(self._prometheus.alerts)
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
