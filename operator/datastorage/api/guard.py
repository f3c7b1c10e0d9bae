"""Decides who may do what: the one entrance to authentication and authorisation for all routes."""

from collections.abc import Sequence
from typing import Protocol

from datastorage.records.caller import Access, Caller


class Guard(Protocol):
    """Checks callers and their rights (api/authentication.py, api/authorization.py)."""

    async def caller(self, authorization: Sequence[str]) -> Caller:
        """Return who sends a request with these Authorization headers. Raises NotAuthenticatedError."""
        ...

    async def require(self, caller: Caller, access: Access) -> None:
        """Raise NotAllowedError unless the caller has the right, in the namespace or in the whole cluster."""
        ...


class NoGuard:
    """Lets everybody do everything: for a listen address that only this machine reaches."""

    async def caller(self, authorization: Sequence[str]) -> Caller:
        """Return the one name that all callers have."""
        del authorization
        return Caller("system:anonymous")

    async def require(self, caller: Caller, access: Access) -> None:
        """Allow it."""
