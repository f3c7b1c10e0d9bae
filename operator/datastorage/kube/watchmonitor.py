"""Tracks the state of each watch for the health checks, and logs its changes.

A silent watch needs no time-out here: Kopf ends it after its own inactivity time-out and sends the request
again. If that fails, it is noted here.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from datastorage.kube.targets import target_of
from datastorage.resources.kinds import VERSION, ResourceKind

_log = logging.getLogger(__name__)


class _State(Enum):
    STARTING = auto()
    OPEN = auto()
    FAILING = auto()  # no answer, or the API server can't serve
    REFUSED = auto()  # a refusal that only an administrator can remedy
    LOST = auto()  # Kopf ended and will be started again


@dataclass(slots=True)
class _Watch:
    kind: ResourceKind
    state: _State = _State.STARTING
    reason: str = ""


class WatchMonitor:
    """The states of all watches, one for each kind and served namespace."""

    def __init__(self, kinds: Sequence[ResourceKind], namespaces: Sequence[str] = ()) -> None:
        """Without ``namespaces`` there is one watch for each kind, over all namespaces."""
        self._watches = {
            target_of(kind, namespace).path: _Watch(kind)
            for kind in kinds
            for namespace in namespaces or (None,)
        }
        self._missing: list[ResourceKind] = []

    def opened(self, path: str) -> bool:
        """Note that the API server has accepted a watch request; return whether there was trouble before."""
        watch = self._watches[path]
        troubled = watch.state not in {_State.STARTING, _State.OPEN}
        if watch.state in {_State.FAILING, _State.REFUSED}:
            _log.info("The watch is open", extra={"path": path})
        watch.state = _State.OPEN
        return troubled

    def failed(self, path: str, reason: str, *, refused: bool = False, busy: bool = False) -> None:
        """Note that a watch request failed.

        ``refused`` means that the API server refuses the request, so that repeating it will not help.
        ``busy`` means that the API server will serve soon, for example a new definition; that is no reason
        for a warning.
        """
        watch = self._watches[path]
        state = _State.REFUSED if refused else _State.FAILING
        if watch.state is not state:
            level = logging.INFO if busy else logging.WARNING
            _log.log(level, "The watch waits for the API server", extra={"path": path, "error": reason})
        watch.state, watch.reason = state, reason

    def failed_all(self, kind: ResourceKind, reason: str, *, refused: bool, busy: bool) -> None:
        """Note that the API server could not be asked whether it serves the kind."""
        for path, watch in self._watches.items():
            if watch.kind is kind:
                self.failed(path, reason, refused=refused, busy=busy)

    def undefined(self, kind: ResourceKind) -> None:
        """Note that the API server does not serve the kind."""
        if kind in self._missing:
            return
        self._missing.append(kind)
        _log.warning("Waiting for a definition: %s", _missing_text(kind))

    def defined(self, kind: ResourceKind) -> bool:
        """Note that the API server serves the kind; return whether that is news."""
        if kind not in self._missing:
            return False
        self._missing.remove(kind)
        _log.info("The API server serves the definition now: %s", kind.crd_name)
        return True

    def lost(self, kind: ResourceKind) -> None:
        """Note that the kind is not watched for now, because its Kopf operator has ended."""
        for watch in self._watches.values():
            if watch.kind is kind and watch.state is _State.OPEN:
                watch.state = _State.LOST

    @property
    def problem(self) -> str | None:
        """A description of the watches that are not open, or None."""
        return self._describe([_State.STARTING, _State.FAILING, _State.REFUSED, _State.LOST], self._missing)

    @property
    def curable_problem(self) -> str | None:
        """The same without refusals of the API server and missing definitions, which a restart can't cure."""
        return self._describe([_State.STARTING, _State.FAILING, _State.LOST], [])

    def _describe(self, states: Sequence[_State], missing: Sequence[ResourceKind]) -> str | None:
        found = [_missing_text(kind) for kind in missing]
        closed = 0
        for path, watch in self._watches.items():
            if watch.kind in self._missing or watch.state not in states:
                continue
            if watch.state in {_State.FAILING, _State.REFUSED}:
                found.append(f"the watch of {path} fails: {watch.reason}")
            else:
                closed += 1
        if closed:
            found.append(f"{closed} of {len(self._watches)} watches are not open yet")
        return "; ".join(found) or None


def _missing_text(kind: ResourceKind) -> str:
    return (
        f"the API server does not serve {kind.kind} objects: apply the definition {kind.crd_name} "
        f"(kubectl apply -k crds), with the version {VERSION} served; no restart is needed"
    )
