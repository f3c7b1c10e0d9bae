"""Finds the objects of other shards that nobody has processed for a while.

A shard can be without anyone who processes it, although its Lease is held: by a process in which that shard
hangs, or one with a fault that concerns some objects. The first shard looks after such objects too, so that
they are stored late and not never. If they are processed twice, that costs requests, not data. Nobody looks
after the first shard itself.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datastorage.pipeline.clusterobject import Body, is_settled
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.selection import Selection, metadata_in


@dataclass(frozen=True)
class Limits:
    """What is remembered of the other shards' objects."""

    patience_seconds: float = 300.0
    """An object that waits unchanged for this long, while the archive takes records in, is neglected."""
    most: int = 20_000
    """Objects that are remembered at a time, about 0.2 KB each. Others follow when these are stored."""


# The uid and the resourceVersion of an object.
_Version = tuple[str, str]


def _always() -> float:
    return -math.inf


class Neglected:
    """Remembers when each waiting object of another shard was first seen at its present version."""

    def __init__(
        self,
        selection: Selection,
        limits: Limits = Limits(),
        *,
        serving_since: Callable[[], float] = _always,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``selection`` is that of the shard which looks after the others' objects too.

        ``serving_since`` returns since when the archive takes records in, by ``clock``. After an outage all
        objects have waited for long, and every shard has its own part of them to store.
        """
        self._selection = selection
        self._limits = limits
        self._serving_since = serving_since
        self._clock = clock
        self._before: dict[ResourceKind, dict[_Version, float]] = {}
        self._now: dict[ResourceKind, dict[_Version, float]] = {}

    def begin(self, kinds: Iterable[ResourceKind]) -> None:
        """Begin a new listing of these kinds: objects that are not in it are forgotten."""
        for kind in kinds:
            self._before[kind] = self._now.get(kind, {})
            self._now[kind] = {}

    def choose(self, kind: ResourceKind, bodies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the objects of the shard itself, and the neglected ones of others."""
        return [body for body in bodies if self._selection.has(body) or self._is_neglected(kind, body)]

    def _is_neglected(self, kind: ResourceKind, body: Any) -> bool:
        metadata = metadata_in(body)
        if metadata is None or not _is_waiting(body):
            return False
        version = (str(metadata.get("uid")), str(metadata.get("resourceVersion")))
        now = self._clock()
        first_seen = self._before.get(kind, {}).get(version, now)
        remembered = self._now.setdefault(kind, {})
        if len(remembered) < self._limits.most:
            remembered[version] = first_seen
        return now - max(first_seen, self._serving_since()) >= self._limits.patience_seconds


def _is_waiting(body: Body) -> bool:
    # Listings also have objects that stay in them for as long as they exist, such as rejected ones.
    try:
        return not is_settled(body)
    except (LookupError, TypeError, AttributeError):
        return True  # the intake reports what it can't read
