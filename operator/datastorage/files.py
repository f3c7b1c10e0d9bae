"""Files that settings name: read up to a limit, and compared to find out when they change."""

import errno
import os
import stat
from pathlib import Path


class UnfitFileError(OSError):
    """The path leads to something that can't be read to an end, such as /dev/zero, or to far too much.

    ``strerror`` completes a sentence: "not a regular file".
    """


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Return the content of a regular file. It never waits for a writer, as reading a FIFO would.

    Raises OSError: UnfitFileError for what is no regular file or has more than ``max_bytes``.
    """
    descriptor = _open(path)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor
        _check(descriptor, path, max_bytes)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it has grown meanwhile
        raise _too_large(path, max_bytes)
    return content


def check_file(path: str | Path, max_bytes: int) -> None:
    """Raise what ``read_file`` would raise, without reading: for files that a library reads."""
    descriptor = _open(path)
    try:
        _check(descriptor, path, max_bytes)
    finally:
        os.close(descriptor)


def fingerprint(path: str | Path) -> tuple[int, ...] | None:
    """Return a value that changes when a file is written, or replaced by a rename or behind a symbolic link.

    Returns None if there is no such file. It costs one system call, and reads nothing.
    """
    try:
        state = os.stat(path)  # noqa: PTH116  # follows the links of a mounted Secret
    except (OSError, ValueError):  # ValueError: not the path of a file
        return None
    return (state.st_ino, state.st_mtime_ns, state.st_size)


def _open(path: str | Path) -> int:
    try:
        # O_NONBLOCK: to open a FIFO would wait for its writer. It means nothing for a regular file.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in it
        raise UnfitFileError(errno.EINVAL, "not the path of a file", str(path)) from error


def _check(descriptor: int, path: str | Path, max_bytes: int) -> None:
    state = os.fstat(descriptor)
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        raise UnfitFileError(errno.EINVAL, "not a regular file", str(path))
    if state.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | Path, max_bytes: int) -> UnfitFileError:
    return UnfitFileError(errno.EFBIG, f"larger than {max_bytes // 1024 // 1024} MiB", str(path))
