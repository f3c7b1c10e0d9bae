"""The selection of the cluster's objects that one shard of the operator processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datastorage.resources.kinds import KINDS, ResourceKind

_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects kinds and namespaces, and within them the objects whose uids hash into one range.

    The hashes are divided into ``shards`` ranges of the same size; ``shard`` is the number of one, counted
    from 0. Every object is in exactly one range.
    """

    namespaces: tuple[str, ...] = ()
    """Empty for all namespaces."""
    shard: int = 0
    shards: int = 1
    kinds: tuple[ResourceKind, ...] = KINDS

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}")

    @property
    def shard_selector(self) -> str | None:
        """The range as the API server's parameter ``shardSelector``; None if it contains every hash.

        Servers that do not divide lists and watches ignore it (alpha in Kubernetes 1.36, KEP 5866).
        """
        if self.shards == 1:
            return None
        # Rounded up, as ``has`` divides the hashes.
        start, end = (-((-number << _BITS) // self.shards) for number in (self.shard, self.shard + 1))
        return f"shardRange(object.metadata.uid, '{start:#018x}', '{end:#018x}')"

    def has(self, body: Any) -> bool:
        """Return whether an object is in the shard's range. Kind and namespace are not checked here."""
        if self.shards == 1:
            return True
        # An object without a readable uid also belongs to exactly one shard, which then reports it.
        uid = str((metadata_in(body) or {}).get("uid") or "")
        return fnv1a_64(uid) * self.shards >> _BITS == self.shard


EVERYTHING: Final = Selection()


def metadata_in(body: Any) -> Mapping[str, Any] | None:
    """Return an object's metadata; None for anything else, which a list or an event may contain as well."""
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    return metadata if isinstance(metadata, Mapping) else None


def fnv1a_64(text: str) -> int:
    """Return the hash by which the API server divides a sharded watch (FNV-1a of 64 bits)."""
    # Of every line of a watch that other shards share: local names and a mask take half the time.
    value, prime, mask = _FNV_OFFSET, _FNV_PRIME, _MASK
    for byte in text.encode("utf-8", "surrogatepass"):
        value = ((value ^ byte) * prime) & mask
    return value
