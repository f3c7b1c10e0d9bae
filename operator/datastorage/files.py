"""Reads files that settings name, up to a limit of size, and detects when they change."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

# The size limit of a Kubernetes Secret.
_MAX_SECRET_BYTES: Final = 1024 * 1024


class UnusableFileError(OSError):
    """The path is not that of a regular file, or the file is too large.

    ``strerror`` completes the sentence "The file is …": "not a regular file".
    """


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises OSError; its subclass UnusableFileError if the path is that of a FIFO or a device, which could be
    read without end, or if the file has more than ``max_bytes``.
    """
    descriptor = _open(path)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor
        _check(descriptor, path, max_bytes)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # the file has grown since the check
        raise _too_large(path, max_bytes)
    return content


def check_file(path: str | Path, max_bytes: int) -> None:
    """Raise the error that ``read_file`` would raise, without reading the file: a library will read it."""
    descriptor = _open(path)
    try:
        _check(descriptor, path, max_bytes)
    finally:
        os.close(descriptor)


def fingerprint(path: str | Path) -> tuple[int, ...] | None:
    """Return a value that changes when a file is written, or replaced by a rename or behind a symbolic link.

    Returns None if there is no such file. The call makes one system call and reads no content.
    """
    try:
        state = os.stat(path)  # noqa: PTH116  # follows the links of a mounted Secret
    except (OSError, ValueError):  # ValueError: not the path of a file
        return None
    return (state.st_ino, state.st_mtime_ns, state.st_size)


def secret_file(directory: Path, setting: str) -> Path | None:
    """Return the path of the file that holds a setting's value, or None.

    The file's name may be in upper or lower case. A symbolic link that leads outside the directory is
    ignored. Raises OSError if the directory can't be listed.
    """
    found = next((path for path in directory.iterdir() if path.name.lower() == setting.lower()), None)
    if found is None or not found.is_file() or directory.resolve() not in found.resolve().parents:
        return None
    return found


def read_secret(path: Path) -> str:
    """Return the value in a secret's file. Raises OSError, and UnicodeDecodeError where it is not UTF-8."""
    return read_file(path, _MAX_SECRET_BYTES).decode().strip()


def _open(path: str | Path) -> int:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer. It has no effect on a regular file.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise UnusableFileError(errno.EINVAL, "not the path of a file", str(path)) from error


def _check(descriptor: int, path: str | Path, max_bytes: int) -> None:
    state = os.fstat(descriptor)
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        raise UnusableFileError(errno.EINVAL, "not a regular file", str(path))
    if state.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | Path, max_bytes: int) -> UnusableFileError:
    return UnusableFileError(errno.EFBIG, f"larger than {max_bytes // 1024 // 1024} MiB", str(path))
