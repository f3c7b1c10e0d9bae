"""Requests to etcd through its JSON gateway, which listens on a Unix socket."""

import base64
import http.client
import json
import socket
from pathlib import Path
from typing import Any

TIMEOUT = 30.0  # seconds


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def is_healthy(socket_path: Path) -> bool:
    """Return whether etcd answers and has a leader."""
    try:
        return bool(_request(socket_path, "GET", "/health").get("health") == "true")
    except (OSError, http.client.HTTPException, ValueError):
        return False


def compact(socket_path: Path) -> int:
    """Drop all revisions before the current one, also from disk; return the current revision."""
    status = _request(socket_path, "POST", "/v3/maintenance/status", {})
    revision = int(status["header"]["revision"])
    _request(socket_path, "POST", "/v3/kv/compaction", {"revision": revision, "physical": True})
    return revision


def advance(socket_path: Path) -> None:
    """Make a new revision by writing a key that means nothing to Kubernetes."""
    put(socket_path, "harness/advance", "")


def put(socket_path: Path, key: str, value: str) -> None:
    """Write a key without the API server; its watches see the change."""
    _request(socket_path, "POST", "/v3/kv/put", {"key": _base64(key), "value": _base64(value)})


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _request(socket_path: Path, method: str, path: str, body: object | None = None) -> dict[str, Any]:
    connection = _UnixConnection(socket_path)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"etcd answered {method} {path} with {response.status}: {text[:300]}")
    answer: dict[str, Any] = json.loads(text)
    return answer
