"""Asks a Prometheus, wherever it runs."""

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

_REQUEST_SECONDS: Final = 30.0
# The tests reach every server at an address of this machine, which a proxy would not reach.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, **parameters: str) -> bytes:
    """Return what a server of this machine answers. Raises OSError if it does not."""
    query = f"?{urlencode(parameters)}" if parameters else ""
    with _OPENER.open(f"{url}{query}", timeout=_REQUEST_SECONDS) as response:
        return bytes(response.read())


class PrometheusApi:
    """The questions that the tests have. Each raises OSError if Prometheus does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url

    def targets(self) -> list[dict[str, Any]]:
        """Return what is read, with the labels, and what came of the last time."""
        return list(self._data("targets", state="active")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules of all groups, with what came of their last evaluation."""
        return [rule for group in self._data("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing, with their labels and texts."""
        return list(self._data("alerts")["alerts"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now."""
        return list(self._data("query", query=expression)["result"])

    def query_range(self, expression: str, *, since: float, step: float = 1.0) -> list[dict[str, Any]]:
        """Return the lines of an expression from a time, in seconds since 1970, until now.

        ``step`` are the seconds from one value to the next.
        """
        found = self._data(
            "query_range", query=expression, start=str(since), end=str(time.time()), step=str(step)
        )
        return list(found["result"])

    def _data(self, path: str, **parameters: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(get(f"{self._url}/api/v1/{path}", **parameters))["data"]
        return found
