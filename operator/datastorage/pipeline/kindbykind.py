"""Does work for each kind by itself: what is wrong with one does not stop the work for the other."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from datastorage.errors import ClusterError, NotServedError, TransientError
from datastorage.resources.kinds import ResourceKind

_log = logging.getLogger(__name__)

# Trouble that passes within this time is no reason to warn: a definition is new, the API server restarts.
_PATIENCE_SECONDS: Final = 5.0
# While trouble lasts it is logged again after this time.
_REMIND_SECONDS: Final = 300.0


@dataclass(slots=True)
class _Trouble:
    warn_at: float
    warned: bool = False


class KindByKind:
    """Runs the same work for several kinds and logs lasting trouble once, however often it is repeated."""

    def __init__(self, what: str) -> None:
        """``what`` names the work in the log."""
        self._what = what
        self._troubles: dict[ResourceKind, _Trouble] = {}

    async def run(
        self, kinds: Iterable[ResourceKind], work: Callable[[ResourceKind], Awaitable[None]]
    ) -> set[ResourceKind]:
        """Do the work for each kind; return those for which it failed and has to be repeated.

        A kind that the API server does not serve has no objects: there is nothing to do, and nothing to
        repeat. Its watch says when it is served (kube/watch.py).
        """
        failed: set[ResourceKind] = set()
        for kind in kinds:
            try:
                await work(kind)
            except NotServedError:
                self._troubles.pop(kind, None)
            except (ClusterError, TransientError) as error:
                failed.add(kind)
                self._failed(kind, error)
            else:
                self._succeeded(kind)
        return failed

    def _failed(self, kind: ResourceKind, error: Exception) -> None:
        now = time.monotonic()
        trouble = self._troubles.setdefault(kind, _Trouble(warn_at=now + _PATIENCE_SECONDS))
        if now < trouble.warn_at:
            return
        trouble.warned, trouble.warn_at = True, now + _REMIND_SECONDS
        extra = {"kind": kind.kind, "error": str(error)}
        _log.warning("%s fails; it is repeated until it succeeds", self._what, extra=extra)

    def _succeeded(self, kind: ResourceKind) -> None:
        trouble = self._troubles.pop(kind, None)
        if trouble is not None and trouble.warned:
            _log.info("%s succeeds again", self._what, extra={"kind": kind.kind})
