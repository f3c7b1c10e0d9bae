"""Kubeconfigs of the tests' own, and the transport that follows from them."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datastorage.kube.access import load_access
from datastorage.kube.transport import Transport


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


def transport_of(*kubeconfigs: Path, **environment: str) -> Transport:
    """Return the transport of these files, in an environment that has nothing else."""
    named = {"KUBECONFIG": os.pathsep.join(map(str, kubeconfigs))}
    return Transport(lambda: load_access({**named, **environment}))


def inline(pem: bytes) -> str:
    """Return PEM as a kubeconfig has it."""
    return base64.b64encode(pem).decode()
