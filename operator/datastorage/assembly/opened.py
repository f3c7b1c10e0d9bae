"""What a command gets when it has opened an archive, in whichever way."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from datastorage.query.interface import Archive, Exports


@dataclass(frozen=True)
class OpenedArchive:
    """The archive, open for questions."""

    archive: Archive
    exports: Exports
    time: Callable[[], Awaitable[float]]
    """Returns the time by the archive's clock, in Unix seconds."""
