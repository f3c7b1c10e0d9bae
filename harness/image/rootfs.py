"""Gathers the files of the image: the interpreter, its libraries, the dependencies and the product.

Runs inside the build, with the interpreter that the image gets. The base has a shell, a package manager and
much more that the operator never uses; the image takes only what is named here, and the shared libraries that
these files are linked with.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Final

from harness.image.packages import owners
from harness.image.tree import Tree, settle

PRODUCT: Final = "kubernaut-datastorage"
STATUS: Final = Path("/var/lib/dpkg/status.d")
# The list of the image's parts, where other makers of images put theirs (sbom.py).
SBOM: Final = Path(f"/var/lib/db/sbom/{PRODUCT}.cdx.json")

_ROOT: Final = Path("/")
_ENVIRONMENT: Final = Path(sys.prefix)
_STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
_SITE_PACKAGES: Final = Path(sysconfig.get_path("purelib"))

# What libc and OpenSSL look up by name, what scanners recognize the distribution by, and the licences' texts.
_OF_THE_SYSTEM: Final = (
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/nsswitch.conf", "/etc/os-release", "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf", "/usr/lib/locale/C.utf8", "/usr/lib/ssl/cert.pem", "/usr/lib/ssl/certs",
    "/usr/lib/ssl/openssl.cnf", "/usr/share/common-licenses",
)  # fmt: skip
_NOT_OF_THE_STANDARD_LIBRARY: Final = (
    "config-*", "dist-packages", "ensurepip", "idlelib", "site-packages", "tkinter", "turtledemo",
)  # fmt: skip
_NOT_OF_PACKAGES: Final = (
    "*/tests",
    *(f"*.{suffix}" for suffix in ("a", "c", "cpp", "h", "hpp", "pxd", "pyx")),  # for compilers
    "zstandard/_cffi.*",  # the binding for PyPy
)
# The provider reads the model's files and none of the code (embedding/wordllama.py).
_OF_WORDLLAMA: Final = ("__init__.py", "tokenizers", "weights")

_LINKED: Final = re.compile(r"(/\S+) \(0x")


def is_omitted(path: Path) -> bool:
    """Return whether a file or folder of the interpreter or of a package is left out: nothing uses it."""
    if path.name == "__pycache__":  # compiled again, so that it depends on no file's time
        return True
    if _SITE_PACKAGES in path.parents:
        return is_unused(PurePosixPath(path.relative_to(_SITE_PACKAGES)))
    if _STANDARD_LIBRARY not in path.parents:
        return False
    return path.name in {"test", "tests"} or (
        path.parent == _STANDARD_LIBRARY
        and any(fnmatch(path.name, pattern) for pattern in _NOT_OF_THE_STANDARD_LIBRARY)
    )


def is_unused(path: PurePosixPath) -> bool:
    """Return whether a path, relative to the installed packages, is of no use to the program."""
    if path.parts[0] == "wordllama" and len(path.parts) > 1:
        return path.parts[1] not in _OF_WORDLLAMA
    return any(fnmatch(str(path), pattern) for pattern in _NOT_OF_PACKAGES)


def linked_libraries(listing: str) -> set[Path]:
    """Return the libraries that ldd's output names. Raises SystemExit if one of ours is not in the base."""
    found = set()
    file = ""
    for line in listing.splitlines():
        if line.startswith("/"):
            file = line.rstrip(":")
        elif match := _LINKED.search(line):
            found.add(Path(os.path.normpath(match[1])))
        elif "not found" in line and Path(file).is_relative_to(_ENVIRONMENT):
            raise SystemExit(f"{file} needs a library that the base image has not: {line.strip()}")
    return found


def _gather_dependencies(tree: Tree) -> None:
    """Take the interpreter, everything that is installed beside it, and what these are linked with."""
    if not Path("/etc/ssl/certs/ca-certificates.crt").is_file():
        raise SystemExit("the base image has no CA certificates: install its package ca-certificates")
    for path in (*_OF_THE_SYSTEM, _STANDARD_LIBRARY, _ENVIRONMENT / "pyvenv.cfg", _ENVIRONMENT / "lib64"):
        tree.take(Path(path))
    tree.take(_SITE_PACKAGES)
    for interpreter in sorted((_ENVIRONMENT / "bin").glob("python*")):
        tree.take(interpreter)
    for library in sorted(linked_libraries(_ldd(tree.files))):
        tree.take(library)
    for package, paragraph in owners(_ROOT, tree.files).items():
        tree.write(STATUS / package, paragraph)
        tree.take(Path("/usr/share/doc", package, "copyright"))
    _compile(tree, _STANDARD_LIBRARY, _SITE_PACKAGES)
    # Libraries below /usr/local are found by the cache alone.
    subprocess.run(["ldconfig", "-r", str(tree.target)], check=True)
    temporary = tree.target / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)


def _gather_product(tree: Tree) -> None:
    """Take the installed product and the list of parts. Only this layer changes with each commit."""
    for file in distribution(PRODUCT).files or ():
        path = Path(os.path.normpath(str(file.locate())))
        if not is_omitted(path):
            tree.take(path)
    tree.take(SBOM)
    _compile(tree, _SITE_PACKAGES)


def _ldd(files: Iterable[Path]) -> str:
    binaries = sorted(str(path) for path in files if _is_binary(path))
    return subprocess.run(["ldd", *binaries], check=False, capture_output=True, text=True).stdout


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _compile(tree: Tree, *folders: Path) -> None:
    """Write bytecode that is taken without a look at the source's time: the root may be read-only."""
    new = [str(tree.target / folder.relative_to("/")) for folder in folders]
    subprocess.run(
        [
            sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash",
            "-s", str(tree.target), "-p", "/", *new,
        ],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},  # the order of sets in it
    )  # fmt: skip


def main() -> None:
    """Gather the layer that the first argument names in the folder that the second names."""
    layer, target = sys.argv[1:]
    tree = Tree(_ROOT, Path(target), is_omitted)
    {"dependencies": _gather_dependencies, "product": _gather_product}[layer](tree)
    settle(tree.target)


if __name__ == "__main__":
    main()
