"""Looks whether the admission policies that guard the records are in force (manifests/base).

Nothing in the cluster protects a policy from administrators: Kubernetes exempts admission policies from
admission. So the operator looks at them, and says what is wrong with them in its log, in /ready and as a
metric. It takes records in all the same: they are stored sooner than somebody mends the policies.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from datastorage import __version__, metrics
from datastorage.errors import ClusterUnavailableError
from datastorage.kube.admissionpolicies import (
    SHIPPED_NAMESPACE,
    PolicyProblemError,
    Source,
    policy_and_binding,
    read,
    spec_hash,
)
from datastorage.kube.answers import metadata_of
from datastorage.kube.apirequest import Target
from datastorage.kube.endpoint import pod_namespace
from datastorage.kube.transport import Transport
from datastorage.metrics import Guard
from datastorage.resilience.worker import repeat
from datastorage.resources.kinds import GROUP

_log = logging.getLogger(__name__)

SPECS: Final[Mapping[Guard, tuple[str, str]]] = {
    Guard.CHANGE: (
        "78b3be88b4c7a41bcd1b2ae0666103b2a2e8cc94d2eb2de3636cc80d5bf6bfc1",
        "cbced74850cd5e7a69ca45d191cbcac896c3937fce384e098ecb95335a1cfc3e",
    ),
    Guard.DEFINITION: (
        "0e5ce6b58a398874e3bef59fb616b799817c420ed22cb0549ba9dfc5e82515f0",
        "919c39edfc336b1ccb83a211a7c95b19ed70e1aac4c8daaf50e0f381713db745",
    ),
    Guard.DELETION: (
        "05f3ea52a78cf2c9239e19dd4c8cfb859947896c9540fc926ff3a16ec6d32b8c",
        "751c56cb5a8977d85a1c5cb293c1b80fbb90901c38b50c2aa592c7dc4fdd1ac4",
    ),
    Guard.STATUS: (
        "0f2800a56e1dccd4cebfa66db6c428befdf7e61acd57190450a79a22d3ba9d5e",
        "2655c811902dbd0a5c8f4b6a6f1200272b50fa684caf90fd519a9d963e83dda1",
    ),
}
"""The specs of each policy and of its binding in this release: SHA-256 of their canonical JSON. A unit test
compares them with the manifests, and shows the new values after a change."""
GUARDS: Final = tuple(SPECS)
_SOURCE: Final = Source("manifests/base", "Kubernetes 1.34 or later is needed")


@dataclass(frozen=True)
class Pace:
    """How often the guards are looked at."""

    interval_seconds: float = 60.0
    """Eight small requests at a time. A guard is removed once in years."""


class Guards:
    """What is wrong with the guards of the cluster, as of the last look that had an answer."""

    def __init__(self, transport: Transport, pace: Pace = Pace(), namespace: str | None = None) -> None:
        """``namespace`` is the operator's own, which the guards name; by default that of the pod."""
        self._transport = transport
        self._pace = pace
        self._namespace = namespace or pod_namespace() or SHIPPED_NAMESPACE
        self._problems: tuple[str, ...] = ()

    async def problem(self) -> str | None:
        """Return what is wrong and what to do, or None."""
        return "; ".join(self._problems) or None

    async def run(self) -> None:
        """Look at the guards at intervals, until cancelled."""
        await repeat(self.look, interval_seconds=self._pace.interval_seconds)

    async def look(self) -> None:
        """Look at all guards once; nothing changes without an answer."""
        try:
            found = await asyncio.gather(*(self._state_of(guard) for guard in GUARDS))
        except ClusterUnavailableError:
            return  # the API server's absence is reported elsewhere, and the guards may be as they were
        for guard, state in zip(GUARDS, found, strict=True):
            metrics.GUARD_IN_FORCE.declare(guard).set(state.in_force)
        self._note(state.problem for state in found if state.problem is not None)

    async def _state_of(self, guard: Guard) -> "_State":
        both = zip(policy_and_binding("Validating", f"{guard}.{GROUP}"), SPECS[guard], strict=True)
        states = [await self._judged(target, known) for target, known in both]
        # A policy without its binding refuses nothing, so the worse of both counts.
        return min(states, key=lambda state: (state.in_force, state.problem is None))

    async def _judged(self, target: Target, known: str) -> "_State":
        try:
            found = await read(self._transport, target, _SOURCE)
        except PolicyProblemError as error:
            # Without the right to look, nobody knows: that is worth an alert as well.
            return _State(in_force=False, problem=str(error))
        metadata = metadata_of(found, target)
        if spec_hash(found, self._namespace) != known:
            why = f"{target} differs from that of release {__version__}, and may refuse less"
            remedy = "apply manifests/base of this release, unless an update is under way"
            return _State(in_force=False, problem=f"{why}; {remedy}: see docs/operations/guards.md")
        if metadata.get("deletionTimestamp") is None:
            return _State(in_force=True, problem=None)
        # A finalizer keeps it: see manifests/components/guard-protection.
        why = f"{target} is being deleted, and applies until its finalizers are gone"
        return _State(in_force=True, problem=f"{why}: see docs/operations/guards.md")

    def _note(self, problems: Iterable[str]) -> None:
        found = tuple(problems)
        if found == self._problems:
            return
        self._problems = found
        if found:
            _log.warning("The guards of the records are not as they should be", extra={"errors": found})
        else:
            _log.info("The guards of the records are in force again")


@dataclass(frozen=True)
class _State:
    in_force: bool
    problem: str | None
