"""The file of an export: written line by line, continued where it broke off, and ended with its own sum.

The file is as one stream of query/export.py would be, in however many pieces it came: lines, and a last line
with the number and the SHA-256 of all lines before it. A file without the last line is incomplete.
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from datastorage.errors import (
    DataStorageError,
    IncompleteExportError,
    InvalidQueryError,
    TransientError,
)
from datastorage.query.export import END_KIND, end_line
from datastorage.records.hashes import labelled

_END_BEGINS: Final = f'{{"kind":"{END_KIND}",'.encode()
_LINE_BEGINS: Final = b'{"position":'
# The largest object of a cluster has some 2 MB, and a line is little longer than its object.
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024


class _Sum:
    """The number and the hash of lines."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, lines: bytes) -> None:
        self.count += lines.count(b"\n")
        self._hash.update(lines)

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def check(self, end: bytes, what: str) -> dict[str, Any]:
        """Return the last line as JSON. Raises DataStorageError if it was not made for these lines."""
        try:
            found: dict[str, Any] = json.loads(end)
        except (ValueError, RecursionError):
            found = {}
        is_whole = isinstance(found.get("position"), int) and isinstance(found.get("resumeToken"), str)
        fits = (found.get("count"), found.get("linesHash")) == (self.count, labelled(self.digest))
        if not (is_whole and fits):
            raise DataStorageError(
                f"the last line of {what} does not fit the {self.count:,} lines before it: some of them are "
                "missing or were changed. Export to a new file"
            )
        return found


class ExportFile:
    """A file that an export is written to; standard output, too."""

    def __init__(self, file: BinaryIO, path: Path | None = None) -> None:
        """Begin an empty file. Without a path, it is standard output, which stays open."""
        self._file = file
        self._path = path
        self._name = "standard output" if path is None else str(path)
        self._sum = _Sum()
        self._size = 0
        self._has_remains = False
        self._is_unused = False
        self.token: str | None = None
        """The token with which the export goes on; None in a file without lines."""

    @classmethod
    def create(cls, path: Path) -> "ExportFile":
        """Make a new file. Raises InvalidQueryError if there is one, and OSError."""
        try:
            made = cls(path.open("xb"), path)
        except FileExistsError:
            raise InvalidQueryError(
                f"{path} exists: give --resume to continue it, or another name to begin a new export"
            ) from None
        made._is_unused = True
        return made

    @classmethod
    def resume(cls, path: Path) -> "ExportFile":
        """Open a file that broke off, or a complete one that is to get what was stored since.

        Raises InvalidQueryError if it is not the file of an export, DataStorageError if it was changed, and
        OSError.
        """
        try:
            found = cls(path.open("r+b"), path)
        except FileNotFoundError:
            return cls.create(path)
        found._read()
        return found

    @property
    def count(self) -> int:
        """The lines so far, without the last one."""
        return self._sum.count

    async def write(self, pieces: AsyncIterator[bytes]) -> None:
        """Write the bytes of an export, and the last line of the whole file.

        Raises IncompleteExportError if the export broke off: all lines that came whole are in the file.
        Raises DataStorageError if its last line does not fit the others.
        """
        came, held = _Sum(), b""
        try:
            async for piece in pieces:
                data = held + piece
                if len(data) > _MAX_LINE_BYTES + len(piece):
                    raise DataStorageError(
                        f"the server sent a line of over {_MAX_LINE_BYTES:,} bytes: this is not an export"
                    )
                # The last line is held back until another one follows: it may be the end of the export.
                cut = data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1
                held = data[cut:]
                self._add(data[:cut], came)
        except TransientError as error:
            self._break_off(held, came, str(error), error)
        if not (held.startswith(_END_BEGINS) and held.endswith(b"\n")):
            self._break_off(held, came, "the stream ended before its last line")
        end = came.check(held, "the export")
        self._remove_remains()
        self._file.write(
            end_line(self._sum.count, self._sum.digest, position=end["position"], token=end["resumeToken"])
        )
        self._flush()

    def close(self) -> None:
        """Close the file. A new one is removed if the export could not begin: the command may be repeated."""
        if self._path is None:
            return
        self._file.close()
        if self._is_unused:
            self._path.unlink(missing_ok=True)

    def _add(self, lines: bytes, came: _Sum) -> None:
        if lines:
            self._is_unused = False
            self._remove_remains()
            self._file.write(lines)
            self._sum.add(lines)
            came.add(lines)

    def _break_off(self, held: bytes, came: _Sum, why: str, cause: Exception | None = None) -> None:
        self._add(held if held.endswith(b"\n") and not held.startswith(_END_BEGINS) else b"", came)
        self._flush()
        remedy = "" if self._path is None else ": continue it with --resume"
        raise IncompleteExportError(
            f"the export broke off: {why}. {self._name} has {self.count:,} whole lines and no last "
            f"line{remedy}"
        ) from cause

    def _read(self) -> None:
        last = b""
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._sum.add(last)
            self._size += len(last)
            last = line
        else:
            line = b""
        self._has_remains = bool(line)
        if not last:
            self._check_remains(line)
            return
        self.token = _token_in(last)
        if self.token is None:
            raise InvalidQueryError(
                f"{self._name} is not the file of an export: its last line has no resumeToken"
            )
        if last.startswith(_END_BEGINS):
            self._sum.check(last, self._name)
            self._has_remains = True
        else:
            self._sum.add(last)
            self._size += len(last)

    def _check_remains(self, half: bytes) -> None:
        """Raise InvalidQueryError for a file without a whole line that is no export: it would be lost."""
        if not any(half.startswith(begin) or begin.startswith(half) for begin in (_LINE_BEGINS, _END_BEGINS)):
            raise InvalidQueryError(
                f"{self._name} is not the file of an export: it does not begin as one, and is left as it is"
            )

    def _remove_remains(self) -> None:
        """Remove half a line, or a last line, when there is something to write in its place."""
        if self._has_remains:
            self._file.seek(self._size)
            self._file.truncate()
            self._has_remains = False

    def _flush(self) -> None:
        self._is_unused = False
        self._file.flush()
        if self._path is not None:
            os.fsync(self._file.fileno())


def _token_in(line: bytes) -> str | None:
    try:
        token = json.loads(line)["resumeToken"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return token if isinstance(token, str) else None
