"""Takes chosen files out of one tree of files and builds a smaller one of them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

# 1980-01-01, the oldest time that every archive format can hold. With the commit's time in its place, the
# layer of the dependencies would change with each commit.
TIME = 315_532_800


class Tree:
    """A new tree. Paths are absolute, as a process sees them whose root is the old tree or the new one."""

    def __init__(
        self, source: Path, target: Path, omitted: Callable[[Path], bool] = lambda _path: False
    ) -> None:
        self.files: set[Path] = set()
        self.target = target
        self._source = source
        self._omitted = omitted
        self._seen: set[Path] = set()
        target.mkdir(parents=True)

    def take(self, path: Path) -> None:
        """Copy a file, or a folder with all that is not omitted, and whatever its links lead to.

        Nothing happens if there is none.
        """
        path = self._follow(path)
        if path in self._seen:
            return
        self._seen.add(path)
        old = _inside(self._source, path)
        if old.is_dir():
            for entry in sorted(old.iterdir()):
                if not self._omitted(path / entry.name):
                    self.take(path / entry.name)
        elif old.is_file():
            shutil.copy(old, _inside(self.target, path))
            self.files.add(path)

    def write(self, path: Path, text: str) -> None:
        """Write a file of our own."""
        new = _inside(self.target, path)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")

    def _follow(self, path: Path) -> Path:
        """Make the folders and links of a path in the new tree, and return where the links lead to."""
        at = Path("/")
        for name in path.parts[1:]:
            at = self._enter(at / name)
        return at

    def _enter(self, path: Path) -> Path:
        old, new = _inside(self._source, path), _inside(self.target, path)
        if old.is_symlink():
            link = old.readlink()
            if not new.is_symlink():
                new.symlink_to(link)
            return self._follow(Path(os.path.normpath(path.parent / link)))
        if old.is_dir():
            new.mkdir(parents=True, exist_ok=True)
        return path


def settle(root: Path) -> None:
    """Give all files one time, and modes that depend on no umask; none is setuid or setgid."""
    for folder, folders, files in os.walk(root):
        for path in [Path(folder), *(Path(folder, name) for name in (*folders, *files))]:
            if not path.is_symlink():
                mode = path.stat().st_mode
                is_shared = path.is_dir() and mode & 0o1002 == 0o1002  # as /tmp
                executable = path.is_dir() or mode & 0o100
                path.chmod(0o1777 if is_shared else 0o755 if executable else 0o644)
            os.utime(path, (TIME, TIME), follow_symlinks=False)


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
