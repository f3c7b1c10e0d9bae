"""Callers with real tokens, and their authentication and authorisation under the operator's own identity."""

import base64
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from starlette.datastructures import Headers

from datastorage.api.authentication import Authentication
from datastorage.api.authorization import Authorization
from datastorage.kube.accessreviews import AccessReviews
from datastorage.kube.endpoint import load_endpoint
from datastorage.kube.transport import Transport
from datastorage.records.caller import Caller, Reach
from harness.controlplane import Cluster

AUDIENCE: Final = "datastorage"
_REVIEW: Final = re.compile(
    r'^apiserver_request_total\{[^}]*resource="(tokenreviews|subjectaccessreviews)"[^}]*\} (\S+)$',
    re.MULTILINE,
)


class CallerBench:
    """One namespace with a ServiceAccount ``reader``, and a clock that stands until a test moves it."""

    def __init__(self, cluster: Cluster, namespace: str, transport: Transport) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.transport = transport
        self.now = 0.0
        self.reviews = AccessReviews(transport)
        self.authentication = Authentication(self.reviews, [AUDIENCE], clock=lambda: self.now)
        self.authorization = Authorization(self.reviews, clock=lambda: self.now)
        cluster.kubectl("create", "serviceaccount", "reader", "-n", namespace)

    @classmethod
    @asynccontextmanager
    async def open(cls, cluster: Cluster, namespace: str) -> AsyncIterator["CallerBench"]:
        """Open one, with the operator's own rights; it is closed with the context."""
        kubeconfig = cluster.service_account_kubeconfig("datastorage-system", "datastorage")
        async with Transport(lambda: load_endpoint({"KUBECONFIG": str(kubeconfig)})) as transport:
            bench = cls(cluster, namespace, transport)
            try:
                yield bench
            finally:
                await bench.authentication.close()
                await bench.authorization.close()

    @property
    def username(self) -> str:
        return f"system:serviceaccount:{self.namespace}:reader"

    @property
    def reader(self) -> Caller:
        """The ServiceAccount as RBAC sees it, without the facts about a single token."""
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{self.namespace}",
            "system:authenticated",
        )
        return Caller(self.username, groups=groups)

    def token(self, *options: str) -> str:
        """Return a fresh token of the ServiceAccount, from the API server's TokenRequest."""
        command = ("create", "token", "reader", "-n", self.namespace, "--duration=600s", *options)
        return self.cluster.kubectl(*command).stdout.strip()

    def own_token(self) -> str:
        """Return a token for our audience."""
        return self.token(f"--audience={AUDIENCE}")

    async def caller_of(self, token: str, **other_headers: str) -> Caller:
        return await self.authentication.caller_of(bearer(token, **other_headers))

    async def may_list(self, caller: Caller, namespace: str | None) -> Reach:
        return await self.authorization.namespaces_of(caller, "list", "records", namespace)

    def bind(self, role: str, subject: str, *, namespace: str | None = None) -> tuple[str, ...]:
        """Bind a ClusterRole; return the arguments that name the binding, to delete it."""
        kind = "clusterrolebinding" if namespace is None else "rolebinding"
        place = () if namespace is None else ("-n", namespace)
        name = f"{self.namespace}-{role}"
        self.cluster.kubectl("create", kind, name, f"--clusterrole={role}", subject, *place)
        return (kind, name, *place)

    def reviews_so_far(self) -> Counter[str]:
        """Return how many reviews the API server has counted, by resource."""
        return reviews_counted(self.cluster)


def reviews_counted(cluster: Cluster) -> Counter[str]:
    """Return how many reviews the API server has counted, by resource."""
    counted: Counter[str] = Counter()
    for resource, value in _REVIEW.findall(cluster.metrics()):
        counted[resource] += int(float(value))
    return counted


def bearer(token: str, **other_headers: str) -> Headers:
    """Return the headers of a request with a token."""
    return Headers({"Authorization": f"Bearer {token}"} | other_headers)


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token says."""
    claims: dict[str, Any] = json.loads(_decoded(token.split(".")[1]))
    return claims


def resigned(token: str, key: ec.EllipticCurvePrivateKey, **claims: Any) -> str:
    """Return the token with other claims, signed with a key in the way of the API server."""
    head, _, _ = token.partition(".")
    signed = f"{head}.{_encoded(json.dumps(claims_of(token) | claims).encode())}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def forged(token: str) -> dict[str, str]:
    """Return forgeries of a token, by what was done."""
    head, body, signature = token.split(".")
    other_user = _encoded(json.dumps(claims_of(token) | {"sub": "system:admin"}).encode())
    unsigned = _encoded(json.dumps(json.loads(_decoded(head)) | {"alg": "none"}).encode())
    return {
        "the key of somebody else": resigned(token, ec.generate_private_key(ec.SECP256R1())),
        "another user": f"{head}.{other_user}.{signature}",
        "no algorithm": f"{unsigned}.{body}.",
        "no signature": f"{head}.{body}.",
        "a changed signature": f"{head}.{body}.{signature[::-1]}",
        "no token": "not-a-token-at-all",
    }


def signing_key(cluster: Cluster) -> ec.EllipticCurvePrivateKey:
    """Return the key with which our own control plane signs the tokens of ServiceAccounts."""
    path = cluster.directory / "certificates" / "service-account.key"
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def in_seconds(seconds: int) -> dict[str, int]:
    """Return the claims of a token that ends in some seconds, and was issued an hour before that."""
    end = int(time.time()) + seconds
    return {"exp": end, "iat": end - 3600, "nbf": end - 3600}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
