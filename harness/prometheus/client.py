"""Asks a Prometheus, wherever it runs: for samples, lines, alerts, rules and targets."""

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

_REQUEST_SECONDS: Final = 30.0


class PrometheusClient:
    """Sends questions to the API of the Prometheus at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def targets(self) -> list[dict[str, Any]]:
        """Return what is read, with the labels, and what came of the last time."""
        return list(self._data("/api/v1/targets", state="active")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules of all groups, with what came of their last evaluation."""
        return [rule for group in self._data("/api/v1/rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing, with their labels and texts."""
        return list(self._data("/api/v1/alerts")["alerts"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now."""
        return list(self._data("/api/v1/query", query=expression)["result"])

    def query_range(
        self, expression: str, *, since: float, until: float | None = None, step: float = 1.0
    ) -> list[dict[str, Any]]:
        """Return the lines of an expression between two times, in seconds since 1970; until now by default.

        ``step`` are the seconds from one value to the next.
        """
        end = time.time() if until is None else until
        found = self._data(
            "/api/v1/query_range", query=expression, start=str(since), end=str(end), step=str(step)
        )
        return list(found["result"])

    def _data(self, path: str, **parameters: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(fetched(self.url + path, **parameters))["data"]
        return found


def fetched(url: str, **parameters: str) -> bytes:
    """Return what an address of this machine answers to a GET. Raises OSError for an error or no answer."""
    query = f"?{urlencode(parameters)}" if parameters else ""
    # A proxy would not reach this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}{query}", timeout=_REQUEST_SECONDS) as response:
        return bytes(response.read())
