"""Provides the current value of a secret, which may have changed in its file since the start.

The settings keep the values of the start. A password, a key or a certificate may be replaced while the
program runs, and then the files of a mounted Secret change. Each user of a secret calls ``Secret.current``
whenever it needs the value, and makes new connections when the value has changed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datastorage.errors import ConfigurationError, DataStorageError
from datastorage.files import fingerprint, read_secret, secret_file
from datastorage.settings import Settings
from datastorage.variables import PREFIX

_log = logging.getLogger(__name__)

# Between two checks of a file. Short compared with the time that the kubelet takes to replace one.
_LOOK_SECONDS: Final = 1.0
# Between two attempts with a new value while the previous one is still used.
_TRY_AGAIN_SECONDS: Final = 1.0

Check = Callable[[str], object]
"""Raises ConfigurationError, which names the setting and not the value, for a value that can't be used."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The value that a setting had at the start, and the directory of the file that may hold a later one."""

    setting: str
    value: str = field(repr=False)
    directory: Path | None = None
    """The directory of the file that holds the value, now or later; None if the value can't change."""
    look_seconds: float = _LOOK_SECONDS
    """Between two checks of the file. A file that was written less than this long ago may be incomplete."""

    def read(self) -> str | None:
        """Return the value in the file; None if there is none, or if the file may be incomplete."""
        if self.directory is None:
            return None
        try:
            path = secret_file(self.directory, self.setting)
            if path is None:
                return None
            found = read_secret(path)
            age = time.time() - path.stat().st_mtime  # after the read, so that no later write is missed
        except (OSError, UnicodeDecodeError):
            return None
        # A file that was written a moment ago may be incomplete, unless it was replaced atomically. A time in
        # the future comes from another clock.
        return None if 0 <= age < self.look_seconds else found


def origin_of(settings: Settings, name: str) -> Origin:
    """Return the origin of a setting's value. ``name`` has the form that Settings.value_of takes."""
    value = settings.value_of(name)
    text = value.get_secret_value() if hasattr(value, "get_secret_value") else value or ""
    return Origin(f"{PREFIX}{name.upper()}", text, settings.directory_of(name))


@dataclass(frozen=True, slots=True)
class Current:
    """A value and its version; two are equal only if nothing has changed between them."""

    value: str = field(repr=False)
    version: int


def _no_files(_: str) -> Iterable[str]:
    return ()


class Secret:
    """Detects changes of one setting, and of the files that its value names: certificates and their keys."""

    def __init__(
        self, origin: Origin, check: Check, files: Callable[[str], Iterable[str]] = _no_files
    ) -> None:
        """``files`` returns the paths of the files that a value names. Raises what ``check`` raises."""
        check(origin.value)
        self._origin = origin
        self._check = check
        self._files = files
        self._current = Current(origin.value, 0)
        self._fingerprints = self._fingerprints_of(origin.value, {})
        self._refused: str | None = None
        self._look_at = time.monotonic() + origin.look_seconds

    @property
    def setting(self) -> str:
        """The setting's name."""
        return self._origin.setting

    def current(self) -> Current:
        """Return the value as it is now. Files are checked once a second at most. Raises nothing.

        A check is a few system calls and a read of some bytes, too little to be worth a thread.
        """
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._origin.look_seconds
            self._look()
        return self._current

    def _look(self) -> None:
        value, setting = self._current.value, self._origin.setting
        found = self._origin.read()
        if found == value:
            self._refused = None
        elif found is not None and found != self._refused and self._is_usable(found):
            value = found
        fingerprints = self._fingerprints_of(value, self._fingerprints)
        if value != self._current.value:
            _log.info("%s has changed", setting)
        elif fingerprints != self._fingerprints:
            _log.info("A file that %s names has changed", setting)
        else:
            return
        self._current = Current(value, self._current.version + 1)
        self._fingerprints = fingerprints

    def _is_usable(self, found: str) -> bool:
        try:
            self._check_found(found)
        except ConfigurationError as error:
            self._refused = found  # each refused value is logged once
            _log.error(  # without a traceback, since the previous value stays in use
                "%s has changed and can't be used; the previous value stays in use",
                self._origin.setting,
                extra={"error": str(error)},
            )
            return False
        return True

    def _check_found(self, found: str) -> None:
        if not found:  # perhaps the file is being written
            raise ConfigurationError(f"{self._origin.setting} is empty")
        self._check(found)

    def _fingerprints_of(self, value: str, known: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the fingerprints of the files that a value names, by path.

        A file that is missing, perhaps while it is replaced, keeps its last fingerprint.
        """
        return {path: fingerprint(path) or known.get(path, ()) for path in self._files(value)}


class TriedSecret:
    """Uses a secret's new value as soon as it works, and the previous one until then.

    A server may get a new password later than this program does.
    """

    def __init__(
        self, secret: Secret, test: Callable[[str], Awaitable[None]], *, on_change: Callable[[], None]
    ) -> None:
        """``test`` raises a DataStorageError if a value does not work. ``on_change`` is called when a new
        value is used.
        """
        self._secret = secret
        self._test = test
        self._on_change = on_change
        self._using = secret.current()
        self._failed: Current | None = None
        self._trying: asyncio.Task[None] | None = None
        self._tested = asyncio.Event()
        """Unset while a new value is tested."""
        self._tested.set()

    @property
    def value(self) -> str:
        """The value to use."""
        return self._using.value

    def follow(self) -> None:
        """Look for a new value and try it in a task of its own."""
        current = self._secret.current()
        if current != self._using and (self._trying is None or self._trying.done()):
            self._tested.clear()
            self._trying = asyncio.create_task(self._try(current))

    async def value_after(self, value: str) -> str | None:
        """Return the value to use where ``value`` does not work, or None if there is no other one.

        This waits for the test of a new value that is under way.
        """
        await self._tested.wait()
        return self.value if self.value != value else None

    async def close(self) -> None:
        """Stop trying."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)
            self._tested.set()  # also if the task was cancelled before it began

    async def _try(self, current: Current) -> None:
        try:
            await self._test(current.value)
            self._using = current
        except DataStorageError as error:
            problem = str(error)
        else:
            self._on_change()
            _log.info("The new value of %s is used", self._secret.setting)
            return
        finally:
            self._tested.set()
        if current != self._failed:  # each value is logged once
            self._failed = current
            _log.warning(
                "The new value of %s does not work yet; the previous one stays in use",
                self._secret.setting,
                extra={"error": problem},
            )
        await asyncio.sleep(_TRY_AGAIN_SECONDS)
