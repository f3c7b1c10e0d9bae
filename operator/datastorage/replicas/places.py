"""Where replicas are: addresses that a person names. `kubectl` finds others (pods.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from yarl import URL


@dataclass(frozen=True, slots=True)
class Place:
    """A replica, and the URL of its metrics, or why there is none now."""

    name: str
    url: URL | None = None
    trouble: str | None = None


class Places(Protocol):
    """Finds the replicas."""

    async def find(self) -> Sequence[Place]:
        """Return all replicas as they are now. Raises DataStorageError if nobody knows them."""
        ...

    async def lost(self, name: str) -> None:
        """Note that a replica with a URL does not answer there."""
        ...


class NamedPlaces:
    """Replicas that are named by their URLs, and stay where they are."""

    def __init__(self, urls: Sequence[URL]) -> None:
        self._places = [Place(f"{url.host}:{url.port}", url) for url in dict.fromkeys(urls)]

    async def find(self) -> Sequence[Place]:
        """Return the replicas."""
        return self._places

    async def lost(self, name: str) -> None:
        """Do nothing: the next look asks at the same URL."""
