"""Gives ServiceAccounts rights in the namespace of the installation, for as long as a test lasts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.controlplane import Cluster
from harness.installed import NAMESPACE


@contextmanager
def granted(
    cluster: Cluster, namespace: str, account: str, rules: Sequence[Mapping[str, Any]]
) -> Iterator[None]:
    """Let a ServiceAccount of ``namespace`` do what the rules of a Role allow, while the context lasts."""
    metadata = {"name": f"{namespace}-{account}", "namespace": NAMESPACE}
    common = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    made = [
        {**common, "kind": "Role", "rules": list(rules)},
        {**common, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]},
    ]
    try:
        cluster.kubectl(
            "create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        )
        yield
    finally:
        cluster.kubectl(
            *("delete", "role,rolebinding", "-n", NAMESPACE, metadata["name"], "--ignore-not-found")
        )
