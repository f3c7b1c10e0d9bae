"""A server of one's own, for the length of a block."""

from abc import ABC, abstractmethod
from typing import Self


class OwnServer(ABC):
    """A server that runs from the beginning of its ``with`` block, and is removed at the end."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @abstractmethod
    def start(self) -> None:
        """Start the server and wait until it serves."""

    @abstractmethod
    def remove(self) -> None:
        """Stop the server, if it runs, and remove its files."""
