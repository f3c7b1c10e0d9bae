"""Reads admission policies and their bindings, and recognises those of this release by their specs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import aiohttp

from datastorage.errors import ClusterError, ClusterUnavailableError, NotServedError, ObjectGoneError
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import sha256

SHIPPED_NAMESPACE: Final = "datastorage-system"
"""The namespace of the operator in the manifests. The Helm chart writes that of its release in its place."""
_GROUP: Final = "admissionregistration.k8s.io"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)


class PolicyProblemError(Exception):
    """A policy is not there, or can't be looked at. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where policies come from."""

    folder: str
    """Of the manifests. Its file rbac.yaml has the right to look."""
    unserved: str
    """What to do if the API server does not serve such policies."""


def policy_and_binding(sort: Literal["Mutating", "Validating"], name: str) -> tuple[Target, Target]:
    """Return both objects with this name."""
    kind = f"{sort}AdmissionPolicy"
    policies = Resource(_GROUP, "v1", f"{sort.lower()}admissionpolicies", kind)
    bindings = Resource(_GROUP, "v1", f"{kind.lower()}bindings", f"{kind}Binding")
    return Target(policies, name=name), Target(bindings, name=name)


async def read(transport: Transport, target: Target, source: Source) -> dict[str, Any]:
    """Return a policy or a binding.

    Raises PolicyProblemError, or ClusterUnavailableError if there is no answer.
    """
    try:
        return await transport.call(ApiRequest("GET", target), timeout=_TIMEOUT)
    except ClusterUnavailableError:
        raise
    except NotServedError as error:
        raise PolicyProblemError(f"{error}; {source.unserved}") from error
    except ObjectGoneError as error:
        raise PolicyProblemError(f"{target} is missing; apply {source.folder}") from error
    except ClusterError as error:
        raise PolicyProblemError(f"{error}; apply {source.folder}/rbac.yaml") from error


def spec_hash(found: Mapping[str, Any], namespace: str = SHIPPED_NAMESPACE) -> str:
    """Return the hash of a spec, as SPECS of the callers have it, for an operator in a namespace.

    The specs are compared as the API server returns them, so the manifests write its defaults out.
    """
    # A policy that exempts the operator has the operator's name, and so another one in each namespace.
    operator = f"system:serviceaccount:{namespace}:datastorage".encode()
    # No JSON contains a zero byte, so that no other name has the same hash.
    return sha256(canonical_bytes(found.get("spec")).replace(operator, b"\x00")).hex()
