"""The objects that this process has created for requests, and that are not stored yet. They are bounded."""


class CreatedObjects:
    """Counts the objects. Their names are noted before they are created: their commit may come at once."""

    def __init__(self, most: int) -> None:
        """``most`` objects at once."""
        self.most = most
        self._names: set[tuple[str, str]] = set()

    def has(self, namespace: str, name: str) -> bool:
        """Whether the object is counted already."""
        return (namespace, name) in self._names

    def add(self, namespace: str, name: str) -> bool:
        """Count an object; return False if there is no room for it."""
        if len(self._names) >= self.most:
            return False
        self._names.add((namespace, name))
        return True

    def stored(self, namespace: str, name: str) -> None:
        """Note that an object is stored, or was not created."""
        self._names.discard((namespace, name))
