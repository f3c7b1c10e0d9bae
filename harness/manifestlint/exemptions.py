"""What the manifests do otherwise than kube-score wants, each with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Exemption:
    """A check of kube-score that does not hold for an object, named as kind/name."""

    check: str
    object: str
    reason: str
    renderings: frozenset[str] = frozenset()
    """Where it does not hold; empty for everywhere."""


_SERVERS_FOR_TRIALS = ("Deployment/postgres", "Deployment/redis")
_WITHOUT_POLICIES = frozenset({"base", "development", "namespaced", "tls"})

EXEMPTIONS = (
    *(
        Exemption(
            "pod-networkpolicy",
            server,
            "The component networkpolicy brings the policies: without it, nobody has to label the namespaces "
            "of callers.",
            _WITHOUT_POLICIES,
        )
        for server in ("Deployment/datastorage", *_SERVERS_FOR_TRIALS)
    ),
    Exemption(
        "container-image-pull-policy",
        "Deployment/datastorage",
        "Always would keep a pod from starting while the registry is away. The tag names a release.",
    ),
    *(
        Exemption(
            "container-image-pull-policy",
            server,
            "Always would keep the pod from starting where the image was loaded into the nodes by hand.",
        )
        for server in _SERVERS_FOR_TRIALS
    ),
    *(
        Exemption(
            "container-security-context-user-group-id",
            server,
            "999 is the user of these images; no other may write their data.",
        )
        for server in _SERVERS_FOR_TRIALS
    ),
    *(
        Exemption(
            "deployment-replicas", server, "The server for trials has its data in the pod, so there is one."
        )
        for server in _SERVERS_FOR_TRIALS
    ),
    *(
        Exemption(
            "pod-probes",
            server,
            "A probe could end a server that is only busy, such as a PostgreSQL that recovers.",
        )
        for server in _SERVERS_FOR_TRIALS
    ),
    Exemption(
        "deployment-strategy",
        "Deployment/postgres",
        "Recreate, because two servers must never use the same data.",
    ),
)
