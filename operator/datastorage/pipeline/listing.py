"""Lists the cluster's objects: kind by kind, selector by selector, page by page.

A failure with one kind does not keep the others from being listed. A failure that lasts is logged at
intervals, however often the listing is repeated.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from datastorage.errors import ClusterError, NotServedError, TransientError
from datastorage.resources.kinds import ResourceKind

_log = logging.getLogger(__name__)

# A failure is logged only if it lasts longer: a definition may be new, or the API server may be restarting.
_WARN_AFTER_SECONDS: Final = 5.0
# Between two warnings about failures that last: often enough to be noticed, too rare to fill the log.
_WARN_AGAIN_SECONDS: Final = 300.0
OBJECTS_PER_PAGE: Final = 500
"""Objects in one answer of the API server: kubectl asks for as many."""


class Cluster(Protocol):
    """The request that is needed here (kube/objects.py)."""

    def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]: ...


@dataclass(frozen=True, slots=True)
class Page:
    """Objects of one kind. ``read_at``: when the cluster was asked for them, in monotonic seconds."""

    kind: ResourceKind
    bodies: Sequence[dict[str, Any]]
    read_at: float


@dataclass(slots=True)
class _Trouble:
    warn_at: float
    warned: bool = False


class Walk:
    """Lists the objects that match any of some field selectors."""

    def __init__(
        self, cluster: Cluster, *, name: str, selectors: Sequence[str], page_size: int = OBJECTS_PER_PAGE
    ) -> None:
        """``name`` names the work in the log. Each of the ``selectors`` is listed separately."""
        self._cluster = cluster
        self._name = name
        self._selectors = selectors
        self._page_size = page_size
        self._troubles: dict[ResourceKind, _Trouble] = {}

    async def run(
        self, kinds: Iterable[ResourceKind], work: Callable[[Page], Awaitable[None]]
    ) -> set[ResourceKind]:
        """Call ``work`` with every page; return the kinds whose listing failed."""
        failed: set[ResourceKind] = set()
        for kind in kinds:
            try:
                async for page in self.pages(kind):
                    await work(page)
                    del page  # see pages()
            except NotServedError:
                # A kind that is not served has no objects. Its watch reports when it is (kube/watch.py).
                self._troubles.pop(kind, None)
            except (ClusterError, TransientError) as error:
                failed.add(kind)
                self._failed(kind, error)
            else:
                self._succeeded(kind)
        return failed

    async def pages(self, kind: ResourceKind) -> AsyncIterator[Page]:
        """List one kind; request a page only when the caller has finished with the previous one.

        Raises ClusterError; NotServedError if the kind is not served.
        """
        for selector in self._selectors:
            read_at = time.monotonic()
            async for bodies in self._cluster.pages(kind, field_selector=selector, page_size=self._page_size):
                page = Page(kind, bodies, read_at)
                del bodies
                yield page
                del page  # a variable would keep it in memory until the next page is there
                read_at = time.monotonic()

    def _failed(self, kind: ResourceKind, error: Exception) -> None:
        now = time.monotonic()
        trouble = self._troubles.setdefault(kind, _Trouble(warn_at=now + _WARN_AFTER_SECONDS))
        if now < trouble.warn_at:
            return
        trouble.warned, trouble.warn_at = True, now + _WARN_AGAIN_SECONDS
        extra = {"kind": kind.kind, "error": str(error)}
        _log.warning("%s fails; it is repeated until it succeeds", self._name, extra=extra)

    def _succeeded(self, kind: ResourceKind) -> None:
        trouble = self._troubles.pop(kind, None)
        if trouble is not None and trouble.warned:
            _log.info("%s succeeds again", self._name, extra={"kind": kind.kind})
