"""The sender of a request to our API: its identity, the right it needs, and the rows that it may see."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """A user or ServiceAccount as the API server knows it. Each field may matter to a decision on rights."""

    username: str
    uid: str = ""
    """Empty where the API server gives none."""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further facts by name, such as the pod that a token belongs to, in the order of their names."""

    @property
    def namespace(self) -> str:
        """The namespace of a ServiceAccount; empty for other users, who have none."""
        parts = self.username.split(":")
        return parts[2] if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4 else ""


@dataclass(frozen=True, slots=True)
class Access:
    """The right that a request needs, in the words of RBAC."""

    verb: str
    resource: str
    group: str
    namespace: str | None = None
    """None for the right in the whole cluster."""

    def __str__(self) -> str:
        """Return the right as people read it: ``list records.example.io in namespace payments``."""
        place = "the whole cluster" if self.namespace is None else f"namespace {self.namespace}"
        return f"{self.verb} {self.resource}.{self.group} in {place}"


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows of the archive that a caller may see with one request.

    Raises ValueError for all namespaces without a right in the whole cluster, so that no mistake makes such a
    value.
    """

    namespace: str | None
    """Only rows of this namespace; None for those of all namespaces."""
    is_cluster_wide: bool
    """Whether the right holds in the whole cluster. Otherwise it covers only rows that were created since the
    namespace itself was: an earlier namespace of that name may have belonged to others."""
    reviewed_at: float = field(default=-math.inf, compare=False)
    """When the API server was asked for the right, in monotonic seconds."""

    def __post_init__(self) -> None:
        if self.namespace is None and not self.is_cluster_wide:
            raise ValueError("without a right in the whole cluster, a namespace must be named")
