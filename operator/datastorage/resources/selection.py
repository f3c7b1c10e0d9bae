"""The objects of the cluster that one shard of the operator looks after."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """Some namespaces, and of the objects in them those whose uids have their hashes in one range.

    The ranges divide the hashes into ``shards`` of the same size, of which ``shard`` (from 0) is one. Every
    object is in exactly one of them.
    """

    namespaces: tuple[str, ...] = ()
    """Without any: all."""
    shard: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}")

    def has(self, body: Mapping[str, Any]) -> bool:
        """Whether an object is in its shard's range. Its namespace is not looked at: requests name it."""
        if self.shards == 1:
            return True
        # An object without a readable uid is in the first or any other shard too: one has to report it.
        uid = str((body.get("metadata") or {}).get("uid") or "")
        return fnv1a_64(uid) * self.shards >> _BITS == self.shard


EVERYTHING: Final = Selection()


def fnv1a_64(text: str) -> int:
    """Return the hash by which the API server divides a sharded watch (FNV-1a of 64 bits)."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = (value ^ byte) * _FNV_PRIME % (1 << _BITS)
    return value
