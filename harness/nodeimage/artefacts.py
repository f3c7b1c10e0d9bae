"""Built images in the user's cache folder: one compressed archive each, named after a hash of its inputs."""

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.cache import cache_directory
from harness.controlplane.gobuild import build_lock
from harness.controlplane.progress import Steps, say
from harness.docker import Docker

# A branch or an older checkout may need its own again; afterwards nobody does, and each takes some 100 MB.
KEPT_DAYS = 14
_PROGRAMS = "programs-"
KEY_LENGTH = 12  # hexadecimal digits; two inputs never meet in them


@dataclass(frozen=True)
class Artefact:
    """One image, kept as an archive; `build` makes it in that number of `steps`, and leaves it in Docker."""

    name: str
    key: str
    steps: int
    build: Callable[[Docker, str, Steps], None]

    @property
    def tag(self) -> str:
        return f"kubernaut-datastorage-{self.name}:{self.key}"

    @property
    def archive(self) -> Path:
        return folder() / f"{self.name}-{self.key}.tar.zst"

    def ensure(self, docker: Docker, steps: Steps) -> None:
        """Have the image in the cache folder and in Docker; it is built if it is in neither.

        Raises:
            DockerError, BuildError: it can't be built, saved or loaded.
        """
        if not self.archive.exists():
            with build_lock(self._work, f"the image {self.tag}"):
                if not self.archive.exists():
                    if not docker.has_image(self.tag):
                        self.build(docker, self.tag, steps)
                    self._save(docker)
        self._load(docker)

    def _load(self, docker: Docker) -> None:
        """Load it from the cache folder, unless Docker has it."""
        os.utime(self.archive)  # it is in use: see `remove_unused`
        if not docker.has_image(self.tag):
            say(f"Loading {self.tag} from {self.archive}")
            docker.load(self.archive)

    @property
    def _work(self) -> Path:
        """Where its lock is, and what is not finished: the next build removes what an ended one has left."""
        return folder() / f".{self.name}"

    def _save(self, docker: Docker) -> None:
        unfinished = self._work / f".{self.archive.name}.tmp"
        docker.save([self.tag], unfinished)
        unfinished.replace(self.archive)
        say(f"Kept {self.archive} ({self.archive.stat().st_size / 1e6:.0f} MB)")


def folder() -> Path:
    """Return the cache folder of built images, beside the control plane's."""
    return cache_directory("node-image")


def key(*inputs: str | Path) -> str:
    """Return a hash of texts and of the contents of files and folders, for this machine's architecture."""
    digest = hashlib.sha256(platform.machine().encode())
    for entry in inputs:
        for part in _contents(entry):
            digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts look alike
            digest.update(part)
    return digest.hexdigest()[:KEY_LENGTH]


def programs_folder(inputs: str) -> Path:
    """Return the folder of the programs that are built from inputs with this key."""
    return folder() / f"{_PROGRAMS}{inputs}"


def remove_unused(kept: Iterable[Path], now: float | None = None) -> list[Path]:
    """Remove archives, and folders of programs, that nothing has used for two weeks; return them."""
    oldest = (time.time() if now is None else now) - KEPT_DAYS * 86400
    names = set(kept)
    every = (*folder().glob("*.tar.zst"), *folder().glob(f"{_PROGRAMS}*"))
    unused = [entry for entry in every if entry not in names and entry.stat().st_mtime < oldest]
    for entry in unused:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return unused


def _contents(entry: str | Path) -> Iterable[bytes]:
    if isinstance(entry, str):
        yield entry.encode()
    elif entry.is_dir():
        for file in sorted(path for path in entry.rglob("*") if path.is_file()):
            if file.suffix != ".pyc":
                yield str(file.relative_to(entry)).encode()
                yield file.read_bytes()
    else:
        yield entry.read_bytes()
