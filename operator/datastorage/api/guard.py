"""The one entrance to authentication and authorisation for all routes: who asks, and for which rows."""

from datetime import datetime
from typing import Final, Protocol

from starlette.datastructures import Headers

from datastorage.api.allowances import Allowances
from datastorage.api.authentication import Authentication
from datastorage.api.authorization import Authorization, store_access
from datastorage.errors import NotAllowedError
from datastorage.records.caller import Caller
from datastorage.storage.criteria import Scope

_RESOURCE: Final = "records"


class Guard(Protocol):
    """Checks the senders of requests.

    Every method raises ClusterUnavailableError if the API server does not say who or what is allowed.
    """

    async def caller_of(self, headers: Headers) -> Caller:
        """Return who sends a request with these headers.

        Raises NotAuthenticatedError, and TooManyRequestsError. It is called once for each request.
        """
        ...

    def charge(self, caller: Caller, records: int) -> None:
        """Count the records of a batch."""
        ...

    async def check_store(self, caller: Caller, namespace: str) -> None:
        """Raise NotAllowedError unless the caller may store records of the namespace."""
        ...

    async def created_at(self, caller: Caller, namespace: str) -> datetime | None:
        """Return when the namespace was created in which the caller may store; None if there is none of that
        name in the cluster. Raises NotAllowedError.
        """
        ...

    async def scope_of(self, caller: Caller, verb: str, namespace: str | None) -> Scope:
        """Return the rows that the caller may read. Raises NotAllowedError if there are none."""
        ...


class Namespaces(Protocol):
    """Where the age of a namespace is looked up (kube/namespaces.py)."""

    async def created_at(self, namespace: str, *, asked_since: float) -> datetime | None:
        """Return when the namespace was created; None if the cluster has none of that name.

        The API server was asked no earlier than ``asked_since``, in monotonic seconds.
        """
        ...

    async def close(self) -> None:
        """End the requests under way."""
        ...


class KubernetesGuard:
    """Leaves every decision to the API server, with the callers' own tokens and rights."""

    def __init__(
        self,
        authentication: Authentication,
        authorization: Authorization,
        namespaces: Namespaces,
        allowances: Allowances,
    ) -> None:
        self._authentication = authentication
        self._authorization = authorization
        self._namespaces = namespaces
        self._allowances = allowances

    async def caller_of(self, headers: Headers) -> Caller:
        """Return who sends a request with these headers, if it may send another one now."""
        caller = await self._authentication.caller_of(headers)
        self._allowances.admit(caller.username)
        return caller

    def charge(self, caller: Caller, records: int) -> None:
        """Count the records of a batch."""
        self._allowances.charge(caller.username, records)

    async def check_store(self, caller: Caller, namespace: str) -> None:
        """Raise NotAllowedError unless the caller may store records of the namespace."""
        await self._authorization.require(caller, store_access(namespace))

    async def created_at(self, caller: Caller, namespace: str) -> datetime | None:
        """Return when the namespace was created; None if the cluster has none of that name."""
        reviewed_at = await self._authorization.require(caller, store_access(namespace))
        return await self._namespaces.created_at(namespace, asked_since=reviewed_at)

    async def scope_of(self, caller: Caller, verb: str, namespace: str | None) -> Scope:
        """Return the rows that the caller may read.

        A right in one namespace covers the rows that were created since that namespace was: an earlier one of
        the same name may have belonged to others.
        """
        reach = await self._authorization.namespaces_of(caller, verb, _RESOURCE, namespace)
        if reach.is_cluster_wide:
            return Scope(reach.namespace)
        assert reach.namespace is not None
        # The right may be that of a namespace that was made a moment ago. An older answer about the age would
        # be that of the namespace before it, and would show the rows of others.
        created_at = await self._namespaces.created_at(reach.namespace, asked_since=reach.reviewed_at)
        if created_at is None:
            raise NotAllowedError(
                f"the cluster has no namespace {reach.namespace} any more: its records can be read with the "
                "right in the whole cluster only"
            )
        return Scope(reach.namespace, created_at)

    async def close(self) -> None:
        """End the reviews under way."""
        await self._authentication.close()
        await self._authorization.close()
        await self._namespaces.close()


class OpenGuard:
    """Lets everybody do everything: only for addresses that nothing but this machine reaches."""

    async def caller_of(self, headers: Headers) -> Caller:
        """Return the one name that all callers have."""
        del headers
        return Caller("system:anonymous")

    def charge(self, caller: Caller, records: int) -> None:
        """Count nothing: all callers have one name, and are on this machine."""

    async def check_store(self, caller: Caller, namespace: str) -> None:
        """Allow it."""

    async def created_at(self, caller: Caller, namespace: str) -> datetime | None:
        """Return None: without callers' rights, nobody asks who a namespace belongs to."""
        del caller, namespace
        return None

    async def scope_of(self, caller: Caller, verb: str, namespace: str | None) -> Scope:
        """Allow it."""
        del caller, verb
        return Scope(namespace)

    async def close(self) -> None:
        """Do nothing."""
