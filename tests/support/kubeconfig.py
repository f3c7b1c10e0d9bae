"""Kubeconfigs for tests, and transports that use them."""

import base64
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.transport import Transport, TransportPace

DEFAULT_PACE = TransportPace()


def write_kubeconfig(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any] | None = None) -> Path:
    """Write, or replace, a kubeconfig of one cluster and one user."""
    content = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": "test", "user": dict(user or {})}],
    }
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(content))
    fresh.rename(path)
    return path


def transport_of(
    *kubeconfigs: Path,
    pace: TransportPace = DEFAULT_PACE,
    clock: Callable[[], float] = time.monotonic,
    **environment: str,
) -> Transport:
    """Return a transport that uses these files and nothing else of the environment."""
    named = {"KUBECONFIG": os.pathsep.join(map(str, kubeconfigs))}
    return Transport(lambda: load_endpoint({**named, **environment}), pace, clock)


def inline(pem: bytes) -> str:
    """Return PEM in base64, as a kubeconfig contains it."""
    return base64.b64encode(pem).decode()
