"""Looks whether the admission policies that guard the records are in force (manifests/base).

Nothing in the cluster protects a policy from administrators: Kubernetes exempts admission policies from
admission. So the operator looks at them, and says what is wrong with them in its log, in /ready and as a
metric. It takes records in all the same: they are stored sooner than somebody mends the policies.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from datastorage import metrics
from datastorage.errors import ClusterError, ClusterUnavailableError, ObjectGoneError
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import Transport
from datastorage.resilience.worker import repeat
from datastorage.resources.kinds import GROUP

_log = logging.getLogger(__name__)

GUARDS: Final = ("change-guard", "definition-guard", "deletion-guard", "status-guard")
_ADMISSION: Final = "admissionregistration.k8s.io"
_POLICIES: Final = Resource(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
_BINDINGS: Final = Resource(
    _ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"
)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)


@dataclass(frozen=True)
class Pace:
    """How often the guards are looked at."""

    interval_seconds: float = 60.0
    """Eight small requests at a time. A guard is removed once in years."""


class Guards:
    """What is wrong with the guards of the cluster, as of the last look that had an answer."""

    def __init__(self, transport: Transport, pace: Pace = Pace()) -> None:
        self._transport = transport
        self._pace = pace
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
            metrics.GUARD_IN_FORCE.labels(guard).set(state.in_force)
        self._note(state.problem for state in found if state.problem is not None)

    async def _state_of(self, guard: str) -> "_State":
        name = f"{guard}.{GROUP}"
        targets = Target(_POLICIES, name=name), Target(_BINDINGS, name=name)
        states = []
        for target, judge in zip(targets, (_judge_policy, _judge_binding), strict=True):
            try:
                states.append(judge(target, await self._transport.call(_get(target), timeout=_TIMEOUT)))
            except ClusterUnavailableError:
                raise
            except ObjectGoneError:
                states.append(_broken(f"{target} is missing"))
            except ClusterError as error:
                # Nobody knows whether the guard is in force, which is worth an alert as well.
                states.append(_State(in_force=False, problem=f"{error}; apply manifests/base/rbac.yaml"))
        # A policy without its binding refuses nothing, so the worse of both counts.
        return min(states, key=lambda state: (state.in_force, state.problem is None))

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


def _get(target: Target) -> ApiRequest:
    return ApiRequest("GET", target)


def _judge_policy(target: Target, found: Mapping[str, Any]) -> _State:
    if _spec(found).get("failurePolicy") != "Fail":
        return _broken(f"{target} lets requests pass that it can't judge (failurePolicy is not Fail)")
    return _unless_being_deleted(target, found)


def _judge_binding(target: Target, found: Mapping[str, Any]) -> _State:
    spec = _spec(found)
    if spec.get("policyName") != target.name or "Deny" not in (spec.get("validationActions") or ()):
        return _broken(f"{target} refuses nothing (policyName or validationActions were changed)")
    return _unless_being_deleted(target, found)


def _unless_being_deleted(target: Target, found: Mapping[str, Any]) -> _State:
    # A finalizer keeps it: see manifests/components/guard-protection.
    if (found.get("metadata") or {}).get("deletionTimestamp") is None:
        return _State(in_force=True, problem=None)
    return _State(
        in_force=True,
        problem=f"{target} is being deleted, and applies until its finalizers are gone: see docs/operations/"
        "guards.md",
    )


def _broken(why: str) -> _State:
    return _State(in_force=False, problem=f"{why}; apply manifests/base")


def _spec(found: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = found.get("spec")
    return spec if isinstance(spec, Mapping) else {}
