"""Tracks whether the API server accepts our credentials and grants us the rights that we need."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from datastorage.kube.apirequest import ApiRequest

# Kinds and namespaces bound the number of rights, but a status line has room for only a few.
_MAX_SHOWN: Final = 3
_MAX_SUSPECTS: Final = 100


@dataclass(frozen=True, slots=True)
class Right:
    """The RBAC right that a request needs."""

    verb: str
    group: str
    resource: str
    """With its subresource, if any."""
    namespace: str | None

    @classmethod
    def of(cls, request: ApiRequest) -> Self:
        """Return the right that a request needs."""
        target = request.target
        subresource = f"/{target.subresource}" if target.subresource is not None else ""
        return cls(
            verb=request.verb,
            group=target.resource.group,
            resource=f"{target.resource.plural}{subresource}",
            namespace=target.namespace,
        )

    def __str__(self) -> str:
        scope = f" in namespace {self.namespace}" if self.namespace is not None else ""
        return f"{self.verb} {self.resource}{scope}"


class AccessMonitor:
    """Collects what the transport reports about each answer, for /ready.

    A refused list or watch is noted until it succeeds, since it is repeated. A refused write makes its right
    suspect, and rightsreview.py finds out whether the right is missing, and when it is back.
    """

    def __init__(self) -> None:
        self._credentials: str | None = None
        self._refused: dict[str, str] = {}
        self._suspects: dict[Right, bool] = {}
        self._suspected = asyncio.Event()

    def not_authenticated(self, reason: str) -> None:
        """Note that there are no credentials, or that the API server rejects them (401)."""
        self._credentials = reason

    def forbidden(self, right: str, reason: str) -> None:
        """Note that this right is missing (403)."""
        self._credentials = None
        self._refused[right] = reason

    def accepted(self, right: str | None) -> None:
        """Note any other answer: the API server accepts the credentials, and ``right`` is not missing."""
        self._credentials = None
        if right is not None:
            self._refused.pop(right, None)

    def suspect(self, right: Right) -> None:
        """Note that a write was refused (403), for a missing right or for another reason."""
        if len(self._suspects) < _MAX_SUSPECTS:
            self._suspects.setdefault(right, False)
            self._suspected.set()

    async def suspicion(self) -> None:
        """Wait until a right is suspect."""
        await self._suspected.wait()

    def suspects(self) -> tuple[Right, ...]:
        """Return the rights that may be missing, and those that are known to be missing."""
        return tuple(self._suspects)

    def missing(self, right: Right) -> None:
        """Note that the right is missing."""
        self._suspects[right] = True

    def dismissed(self, right: Right) -> bool:
        """Note that the right exists, or that this is unknown; return whether it was missing before."""
        was_missing = self._suspects.pop(right, False)
        if not self._suspects:
            self._suspected.clear()
        return was_missing

    def problem(self) -> str | None:
        """Return a description of the missing credentials or rights, or None."""
        if self._credentials is not None:
            return self._credentials
        return "; ".join(self._missing_rights()) or None

    def _missing_rights(self) -> Iterator[str]:
        rights = [f"{right}: {reason}" for right, reason in sorted(self._refused.items())]
        rights += sorted(str(right) for right, is_missing in self._suspects.items() if is_missing)
        for number, right in enumerate(rights):
            if number == _MAX_SHOWN:
                yield f"and {len(rights) - number} more"
                return
            yield f"API server (403): no right to {right}"
