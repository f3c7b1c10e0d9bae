"""A client of the operator's REST API, for tests and benchmarks: one call sends one request."""

import http.client
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.content)


class ApiClient:
    """Sends requests with the token of one identity, or without one."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._url = urlsplit(url)
        self._token = token

    def get(self, path: str, /, headers: Mapping[str, str] | None = None, **query: str) -> Answer:
        """Send a GET below /api/v1; ``query`` holds the parameters."""
        return self.send("GET", f"{path}?{urlencode(query)}" if query else path, None, headers or {})

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a POST below /api/v1: bytes as they are, another value as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content, {"Content-Type": "application/json", **(headers or {})})

    def send(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Send a request to a path below /api/v1."""
        token = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        assert self._url.hostname is not None
        connection = http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=TIMEOUT)
        try:
            # A server that refuses a large body answers, and reads no more of it.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, f"/api/v1{path}", content, {**token, **headers})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()
