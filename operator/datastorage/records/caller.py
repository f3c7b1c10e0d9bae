"""Who sends a request, and what it asks for: values without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated identity, as the API server's TokenReview gives it."""

    username: str
    uid: str = ""
    groups: Sequence[str] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller wants to do, in the terms of RBAC. Without a namespace it means the whole cluster."""

    verb: str
    group: str
    resource: str
    namespace: str | None = None
