"""The current value of a secret: what its file says now, which may be another thing than at the start.

The settings are what the start has found, and stay so. A password, a key or a certificate is exchanged while
the program runs, and a mounted Secret's files with it. Each user of a secret asks here whenever it needs it,
and makes its connections anew when the answer is another one.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datastorage.errors import ConfigurationError, DataStorageError
from datastorage.settings import PREFIX, Settings, secret_file

_log = logging.getLogger(__name__)

# Between two looks at a file. Short beside the seconds that the kubelet takes to put a new one in its place.
_LOOK_SECONDS: Final = 1.0
# Between two tries of a new value while the one before is still used.
_TRY_AGAIN_SECONDS: Final = 1.0

Check = Callable[[str], object]
"""Raises ConfigurationError, which names the setting and not the value, for a value that can't be used."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The value that a setting had at the start, and where a later one would be found."""

    setting: str
    value: str = field(repr=False)
    directory: Path | None = None
    """Where the file is, or would be, that has the value; None where it can't change."""

    def read(self) -> str | None:
        """Return what the file says now; None where there is none, or only half of it, amid an exchange."""
        if self.directory is None:
            return None
        try:
            path = secret_file(self.directory, self.setting)
            if path is None:
                return None
            found = path.read_text(encoding="utf-8").strip()
            age = time.time() - path.stat().st_mtime  # after the text was read: no write to it is missed
        except (OSError, UnicodeDecodeError):
            return None
        # What was written a moment ago may be half of what is to come, where a file is not exchanged as a
        # whole. A time to come is that of another clock.
        return None if 0 <= age < _LOOK_SECONDS else found


def origin_of(settings: Settings, name: str) -> Origin:
    """Return where the value of a setting comes from; ``name`` as Settings.value_of takes it."""
    value = settings.value_of(name)
    text = value.get_secret_value() if hasattr(value, "get_secret_value") else value or ""
    return Origin(f"{PREFIX}{name.upper()}", text, settings.directory_of(name))


@dataclass(frozen=True, slots=True)
class Current:
    """A value; equal to another one only while nothing has changed in between."""

    value: str = field(repr=False)
    version: int


def _no_files(_: str) -> Iterable[str]:
    return ()


class Secret:
    """Follows one setting, and the files that its value names: certificates and their keys."""

    def __init__(
        self, origin: Origin, check: Check, files: Callable[[str], Iterable[str]] = _no_files
    ) -> None:
        """``files`` returns the paths of the files that a value names. Raises what ``check`` raises."""
        check(origin.value)
        self._origin = origin
        self._check = check
        self._files = files
        self._current = Current(origin.value, 0)
        self._marks = self._look_at_files(origin.value, {})
        self._refused: str | None = None
        self._look_at = time.monotonic() + _LOOK_SECONDS

    @property
    def setting(self) -> str:
        """The setting's name."""
        return self._origin.setting

    def current(self) -> Current:
        """Return the value as it is now. It looks at files once a second at most, and raises nothing."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._look()
        return self._current

    def _look(self) -> None:
        value, setting = self._current.value, self._origin.setting
        found = self._origin.read()
        if found == value:
            self._refused = None
        elif found is not None and found != self._refused and self._is_usable(found):
            value = found
        marks = self._look_at_files(value, self._marks)
        if value != self._current.value:
            _log.info("%s has changed", setting)
        elif marks != self._marks:
            _log.info("A file that %s names has changed", setting)
        else:
            return
        self._current, self._marks = Current(value, self._current.version + 1), marks

    def _is_usable(self, found: str) -> bool:
        try:
            self._check_found(found)
        except ConfigurationError as error:
            self._refused = found  # told of once
            _log.error(  # a state to be mended, no crash
                "%s has changed and can't be used; the value before goes on being used",
                self._origin.setting,
                extra={"error": str(error)},
            )
            return False
        return True

    def _check_found(self, found: str) -> None:
        if not found:  # a file that is just being written, where it is not exchanged as a whole
            raise ConfigurationError(f"{self._origin.setting} is empty")
        self._check(found)

    def _look_at_files(self, value: str, known: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return what tells contents of files apart. A file that is missing amid an exchange is as it was."""
        marks = {}
        for path in self._files(value):
            try:
                found = os.stat(path)  # noqa: PTH116  # follows the links of a mounted Secret
            except (OSError, ValueError):  # the latter for what is no path
                marks[path] = known.get(path, ())
            else:
                marks[path] = (found.st_ino, found.st_mtime_ns, found.st_size)
        return marks


class TriedSecret:
    """Goes over to a secret's new value when it works, and uses the one before until then.

    A server may learn of a new password later than this program does.
    """

    def __init__(
        self, secret: Secret, tries: Callable[[str], Awaitable[None]], *, on_change: Callable[[], None]
    ) -> None:
        """``tries`` raises a DataStorageError unless a value works; ``on_change`` is told of a new one."""
        self._secret = secret
        self._tries = tries
        self._on_change = on_change
        self._using = secret.current()
        self._failed: Current | None = None
        self._trying: asyncio.Task[None] | None = None

    @property
    def value(self) -> str:
        """The value to use."""
        return self._using.value

    def follow(self) -> None:
        """Look for a new value; it is tried beside the work."""
        current = self._secret.current()
        if current != self._using and (self._trying is None or self._trying.done()):
            self._trying = asyncio.create_task(self._try(current))

    async def close(self) -> None:
        """Try no more."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)

    async def _try(self, current: Current) -> None:
        try:
            await self._tries(current.value)
        except DataStorageError as error:
            if current != self._failed:  # told of once
                self._failed = current
                _log.warning(
                    "The new value of %s does not work yet; the one before goes on being used",
                    self._secret.setting,
                    extra={"error": str(error)},
                )
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
        else:
            self._using = current
            self._on_change()
            _log.info("The new value of %s is used", self._secret.setting)
