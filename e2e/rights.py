"""The rights of the operator, as the API server lists them, and those that it should have."""

import json
from pathlib import Path

from datastorage.kube.guards import GUARDS
from datastorage.resources.kinds import GROUP, KINDS
from harness.controlplane import Cluster

Right = tuple[str, str]
"""A verb and resource.group, with /subresource, and with =name if the right covers only this object."""

OBJECTS = [f"{kind.plural}.{GROUP}" for kind in KINDS]
# In the namespaces that it serves.
OBJECT_RIGHTS: set[Right] = {
    *((verb, resource) for resource in OBJECTS for verb in ("get", "list", "watch", "delete")),
    *(("patch", f"{resource}/status") for resource in OBJECTS),
}
_ADMISSION = "admissionregistration.k8s.io"
GUARD_RIGHTS: set[Right] = {
    ("get", f"{plural}.{_ADMISSION}={guard}.{GROUP}")
    for plural in ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
    for guard in GUARDS
}
# In the whole cluster, in every installation.
CLUSTER_RIGHTS: set[Right] = GUARD_RIGHTS | {
    ("create", "tokenreviews.authentication.k8s.io"),
    ("create", "subjectaccessreviews.authorization.k8s.io"),
    ("get", "namespaces"),
}
# In its own namespace it has these as well.
LEASE_RIGHTS: set[Right] = {(verb, "leases.coordination.k8s.io") for verb in ("get", "create", "update")}


def may(cluster: Cluster, kubeconfig: Path, right: Right) -> bool:
    """Return whether the user of a kubeconfig has a right in all namespaces."""
    verb, resource = right
    resource, _, name = resource.partition("=")
    resource, _, subresource = resource.partition("/")
    what = f"{resource}/{name}" if name else resource
    question = ("auth", "can-i", verb, what, f"--subresource={subresource}", "--all-namespaces")
    return cluster.kubectl(*question, kubeconfig=kubeconfig, check=False).stdout.strip() == "yes"


def listed_rights(cluster: Cluster, kubeconfig: Path, namespace: str) -> set[Right]:
    """Return all rights of the user of `kubeconfig` to resources in a namespace or in the whole cluster."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = cluster.kubectl(
        "create", "--validate=false", "-f", "-", "-o", "json", input=json.dumps(review), kubeconfig=kubeconfig
    )
    rules = json.loads(answer.stdout)["status"]["resourceRules"]
    rights: set[Right] = set()
    for rule in rules:
        names = [f"={name}" for name in rule.get("resourceNames", [])] or [""]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                plural, slash, subresource = resource.partition("/")
                full = (f"{plural}.{group}" if group else plural) + slash + subresource
                rights |= {(verb, full + name) for verb in rule["verbs"] for name in names}
    return rights


def own_rights(cluster: Cluster, kubeconfig: Path, namespace: str, *, nobody: Path) -> set[Right]:
    """Return those rights that an account without any, `nobody`, does not have."""
    return listed_rights(cluster, kubeconfig, namespace) - listed_rights(cluster, nobody, namespace)
