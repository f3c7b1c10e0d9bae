"""Root filesystems of Debian packages, made by debootstrap, as images."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.controlplane.errors import BuildError
from harness.controlplane.progress import run_reporting
from harness.docker import Docker
from harness.nodeimage.artefacts import folder

# bookworm, because its systemd still boots where the kernel has control groups of version 1.
SUITE = "bookworm"
SCRIPT = Path(__file__).resolve().parent / "debian.sh"
PROGRAMS = {
    "debootstrap": "debootstrap",
    "zstd": "zstd",
    "tar": "tar",
    "unshare": "util-linux",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def check_needs(others: Sequence[str] = ()) -> None:
    """Raise BuildError if something is missing for the making of images, with the command that helps.

    `others` are packages that are known to be missing, for the same command.
    """
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not KEYRING.exists():
        packages.append("debian-archive-keyring")
    if packages or others:
        missing = " ".join([*others, *packages])
        raise BuildError(f"to build the images, these are missing: apt-get install {missing}")
    if os.geteuid() != 0:
        raise BuildError(
            "only root can build the images, because debootstrap needs it: run `make node-image` as root"
            " once; where Docker reaches a registry, they are not needed"
        )


@contextmanager
def root_filesystem(packages: Sequence[str], what: str) -> Iterator[Path]:
    """Make a root filesystem in a folder that is removed afterwards."""
    folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".root-", dir=folder()) as directory:
        root = Path(directory) / "root"
        mirror = os.environ.get("DEBIAN_MIRROR", "")  # empty: debootstrap's own
        in_own_mounts = ("unshare", "--mount", "--propagation=private")
        run_reporting([*in_own_mounts, SCRIPT, root, SUITE, ",".join(packages), mirror], what)
        yield root


def import_root(docker: Docker, root: Path, tag: str) -> None:
    """Make an image of a root filesystem, without what the kernel mounts there."""
    archive = root.with_suffix(".tar")
    excluded = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
    run_reporting(["tar", "-C", root, *excluded, "-cf", archive, "."], f"packing {tag}")
    docker.import_archive(archive, tag)
    archive.unlink()
