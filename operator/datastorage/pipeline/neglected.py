"""Finds the objects of other shards that nobody has processed for a while.

A shard can be without anyone who processes it, although its Lease is held: by a process in which that shard
hangs, or one with a fault that concerns some objects. The first shard looks after such objects too, so that
they are stored late and not never. If they are processed twice, that costs requests, not data.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datastorage.resources.kinds import ResourceKind
from datastorage.resources.selection import Selection


@dataclass(frozen=True)
class Limits:
    """What is remembered of the other shards' objects."""

    patience_seconds: float = 300.0
    """An object that stays unstored and unchanged for this long is neglected."""
    most: int = 20_000
    """Objects that are remembered at a time, about 0.2 KB each. Others follow when these are stored."""


# The uid and the resourceVersion of an object.
_Version = tuple[str, str]


class Neglected:
    """Remembers when each unstored object of another shard was first seen at its present version."""

    def __init__(
        self, selection: Selection, limits: Limits = Limits(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``selection`` is that of the shard which looks after the others' objects too."""
        self._selection = selection
        self._limits = limits
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

    def _is_neglected(self, kind: ResourceKind, body: dict[str, Any]) -> bool:
        metadata = body.get("metadata") or {}  # a list may contain anything
        version = (str(metadata.get("uid")), str(metadata.get("resourceVersion")))
        now = self._clock()
        first_seen = self._before.get(kind, {}).get(version, now)
        remembered = self._now.setdefault(kind, {})
        if len(remembered) < self._limits.most:
            remembered[version] = first_seen
        return now - first_seen >= self._limits.patience_seconds
