"""What tests of the API share: ServiceAccounts with tokens and rights, and the smallest record to store."""

import json
from typing import Any

from harness.controlplane import Cluster
from harness.polling import until_blocking

SPEC = {
    "action": "scale-deployment",
    "phase": "Completed",
    "correlationID": "rr-1",
    "message": "scaled checkout",
}
# What each of the roles grants.
_RIGHTS = {
    "datastorage-writer": ("create", "datastorage.kubernaut.io", "auditrecords"),
    "datastorage-archive-reader": ("list", "archive.datastorage.kubernaut.io", "records"),
    "datastorage-archive-exporter": ("export", "archive.datastorage.kubernaut.io", "records"),
}


class Callers:
    """ServiceAccounts of one namespace, each with a token for the API."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._bindings: list[str] = []

    def token(self, name: str, *roles: str, everywhere: bool = False) -> str:
        """Make a ServiceAccount with roles in its namespace, or everywhere; return a token."""
        kubectl, account = self._cluster.kubectl, f"--serviceaccount={self._namespace}:{name}"
        kubectl("create", "serviceaccount", name, "-n", self._namespace)
        for role in roles:
            binding = f"{self._namespace}-{name}-{role}"
            if everywhere:
                kubectl("create", "clusterrolebinding", binding, f"--clusterrole={role}", account)
                self._bindings.append(binding)
            else:
                kubectl(
                    "create", "rolebinding", binding, f"--clusterrole={role}", account, "-n", self._namespace
                )
        if roles:
            # The authorizer of the API server sees the bindings a moment later, one after the other.
            namespace = "" if everywhere else self._namespace
            until_blocking(
                lambda: self._may(name, *_RIGHTS[roles[-1]], namespace), what=f"{roles[-1]} is granted"
            )
        made = kubectl("create", "token", name, "-n", self._namespace, "--audience", "datastorage")
        return str(made.stdout).strip()

    def _may(self, name: str, verb: str, group: str, resource: str, namespace: str) -> bool:
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self._namespace}:{name}",
                "resourceAttributes": attributes,
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = self._cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(review))
        return bool(json.loads(answer.stdout)["status"]["allowed"])

    def close(self) -> None:
        """Take back the rights that do not end with the namespace."""
        for binding in self._bindings:
            self._cluster.kubectl("delete", "clusterrolebinding", binding)


def body(namespace: str, **metadata: Any) -> dict[str, Any]:
    """Return a record to store; ``metadata`` adds to its namespace."""
    return {"metadata": {"namespace": namespace, **metadata}, "spec": SPEC}
