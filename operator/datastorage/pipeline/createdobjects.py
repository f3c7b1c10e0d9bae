"""The objects that this process has created for requests, and that may not be stored yet. They are bounded.

An object has a place before it is created. A commit in this process frees the place. Any other replica may
store the object as well, and then only the API server knows of it (fallback.py).
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice


@dataclass(slots=True)
class Place:
    """The place of an object."""

    namespace: str
    name: str
    users: int = 0
    """How many tasks create the object or look at it now."""
    is_taken: bool = False
    """Whether the object may be in the cluster unstored, as far as this process has created it."""


class CreatedObjects:
    """Gives places to objects. A place is free again when nobody uses it and it is not taken."""

    def __init__(self, most: int) -> None:
        """``most`` objects at once."""
        self.most = most
        # Those that were looked at last stand at the end.
        self._places: OrderedDict[tuple[str, str], Place] = OrderedDict()

    @property
    def has_room(self) -> bool:
        """Whether there is a place for one more object."""
        return len(self._places) < self.most

    def has(self, namespace: str, name: str) -> bool:
        """Whether the object has a place."""
        return (namespace, name) in self._places

    @contextmanager
    def place(self, namespace: str, name: str) -> Iterator[Place]:
        """Use the place of an object; a new object needs room."""
        place = self._places.setdefault((namespace, name), Place(namespace, name))
        place.users += 1
        try:
            yield place
        finally:
            place.users -= 1
            if not place.users and not place.is_taken:
                del self._places[namespace, name]

    def stored(self, namespace: str, name: str) -> None:
        """Free the place of an object that was stored here, if it has one."""
        if self.has(namespace, name):
            with self.place(namespace, name) as place:
                place.is_taken = False

    def longest_unseen(self, most: int) -> list[Place]:
        """Return up to ``most`` places, first those that were not looked at for the longest time."""
        return list(islice(self._places.values(), most))

    def seen(self, place: Place) -> None:
        """Note that a place is looked at now."""
        self._places.move_to_end((place.namespace, place.name))
