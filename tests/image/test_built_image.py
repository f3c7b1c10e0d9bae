"""The image as `make image` builds it: the same twice, small, without a shell, and able to do its work.

Needs Docker. `make image-check` runs it.
"""

import json
import os
import re
import secrets
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from datastorage import __version__
from harness.image.rootfs import SBOM, STATUS
from harness.postgres import TestDatabase

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]  # a build takes some minutes

_ROOT: Final = Path(__file__).parents[2]
_DOCKER: Final = os.environ.get("DOCKER", "docker")
_MOST_BYTES: Final = 300_000_000
# As the manifests run it.
_HARDENED: Final = (
    "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--tmpfs", "/tmp", "--user", "12345:12345",
)  # fmt: skip
_PROGRAMS: Final = {"datastorage", "kubectl-datastorage", "kubectl_complete-datastorage"}
_IMPORT_ALL: Final = """
import importlib, pkgutil, sys, datastorage
skipped = ("datastorage.__main__", "datastorage.storage.migrations")
for module in pkgutil.walk_packages(datastorage.__path__, "datastorage."):
    if not module.name.startswith(skipped):
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith("datastorage.")]))
"""
_EMBED: Final = """
import asyncio, ssl
from datastorage.embedding.wordllama import WordLlamaProvider
print(asyncio.run(WordLlamaProvider().embed(["the pod ran out of memory"])).shape)
print(ssl.create_default_context().cert_store_stats()["x509_ca"] > 0)
"""
_INSTALLED: Final = """
import importlib.metadata, json
print(json.dumps({one.name: one.version for one in importlib.metadata.distributions()}))
"""


@dataclass(frozen=True)
class Image:
    """An image, and what the engine knows of it."""

    name: str
    facts: dict[str, Any]

    def run(self, *command: str, options: tuple[str, ...] = ("--network", "none")) -> str:
        """Return what a command prints in a container like the manifests'."""
        return _docker("run", *_HARDENED, *options, self.name, *command)

    def python(self, program: str) -> str:
        """Return what a program of Python prints in such a container."""
        return self.run("-c", program, options=("--network", "none", "--entrypoint", "python"))


def _docker(*arguments: str) -> str:
    done = subprocess.run([_DOCKER, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _git(folder: Path, *arguments: str, umask: int = -1) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True, umask=umask
    )
    return done.stdout.strip()


def _build(folder: Path, commit: str, name: str, umask: int) -> Image:
    """Build a commit in a clone, without the layers of an earlier build."""
    folder.mkdir(parents=True)
    _git(folder, "clone", "--quiet", "--no-checkout", str(_ROOT), ".")
    _git(folder, "checkout", "--quiet", commit, umask=umask)
    # A base that stands on make's command line comes along in MAKEFLAGS.
    done = subprocess.run(
        ["make", "--no-print-directory", "image", f"IMAGE={name}", "IMAGE_FLAGS=--no-cache"],
        cwd=folder, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=umask,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    (found,) = json.loads(_docker("image", "inspect", name))
    return Image(name, found)


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    """A name that nobody else gives to an image."""
    made = f"kubernaut-datastorage-check:{secrets.token_hex(4)}"
    yield made
    for one in (made, f"{made}-again"):
        subprocess.run([_DOCKER, "image", "rm", one], check=False, capture_output=True)


@pytest.fixture(scope="module")
def commit() -> str:
    """The commit that is tried; the repository may go on while it is built."""
    return _git(_ROOT, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def image(name: str, commit: str, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of the commit, built from a clone."""
    return _build(tmp_path_factory.mktemp("first") / "clone", commit, name, 0o022)


@pytest.fixture(scope="module")
def files(image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tarfile.TarInfo]:
    """All files of the image, by their paths."""
    saved_to = tmp_path_factory.mktemp("saved") / "image.tar"
    _docker("image", "save", "--output", str(saved_to), image.name)
    found = {}
    with tarfile.open(saved_to) as saved:
        manifest = saved.extractfile("manifest.json")
        assert manifest is not None
        for layer in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=saved.extractfile(layer)) as members:
                found.update({f"/{member.name}": member for member in members})
    return found


@pytest.fixture(scope="module")
def packages(image: Image) -> dict[str, str]:
    """The versions of the Python packages in the image, by their names."""
    return dict(json.loads(image.python(_INSTALLED)))


def test_a_second_build_elsewhere_is_the_same_image(image: Image, commit: str, tmp_path: Path) -> None:
    """In another folder, later, and with files that another umask has made."""
    again = _build(tmp_path / "some" / "other", commit, f"{image.name}-again", 0o077)
    assert again.facts["RootFS"] == image.facts["RootFS"]
    assert again.facts["Id"] == image.facts["Id"]


def test_the_image_is_small(image: Image) -> None:
    assert image.facts["Size"] <= _MOST_BYTES


def test_the_image_says_what_it_is(image: Image, commit: str) -> None:
    labels = {key.rpartition(".")[2]: value for key, value in image.facts["Config"]["Labels"].items()}
    assert labels["revision"] == commit
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["created"] == image.facts["Created"]
    assert image.run("--version").splitlines()[:2] == [f"datastorage {__version__}", f"revision    {commit}"]


def test_nothing_but_the_interpreter_and_the_product_can_be_run(files: dict[str, tarfile.TarInfo]) -> None:
    programs = {
        path.rpartition("/")[2] for path, file in files.items()
        if path.split("/")[-2] in {"bin", "sbin"} and not file.isdir()
    }  # fmt: skip
    assert programs >= _PROGRAMS
    assert {one for one in programs - _PROGRAMS if not one.startswith("python3")} == {"python"}


def test_no_file_gives_rights_away(files: dict[str, tarfile.TarInfo]) -> None:
    assert {(file.uid, file.gid) for file in files.values()} == {(0, 0)}
    assert not [path for path, file in files.items() if file.mode & (stat.S_ISUID | stat.S_ISGID)]
    writable = [path for path, file in files.items() if file.mode & 0o022 and not file.issym()]
    assert writable == ["/tmp"]


def test_each_module_has_bytecode_since_it_can_write_none(files: dict[str, tarfile.TarInfo]) -> None:
    paths = [PurePosixPath(path) for path in files]
    compiled = {
        path.parent.parent / f"{path.name.removesuffix('.pyc').rpartition('.')[0]}.py"
        for path in paths if path.suffix == ".pyc"
    }  # fmt: skip
    assert compiled == {path for path in paths if path.suffix == ".py" and "/lib/python3" in str(path)}


def test_the_list_of_parts_is_what_is_installed(
    image: Image, files: dict[str, tarfile.TarInfo], packages: dict[str, str]
) -> None:
    text = image.python(f"print(open('{SBOM}').read())")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = [(part["name"], part["version"], part["purl"]) for part in json.loads(text)["components"]]
    listed = {name: version for name, version, url in parts if url.startswith("pkg:pypi/")}
    assert listed == packages
    debian = {name for name, _, url in parts if url.startswith("pkg:deb/")}
    assert debian == {path.name for path in map(PurePosixPath, files) if path.parent == PurePosixPath(STATUS)}


def test_the_licences_of_the_packages_are_there(
    files: dict[str, tarfile.TarInfo], packages: dict[str, str]
) -> None:
    texts = [
        path
        for path in files
        if re.search(r"\.dist-info/(?:licenses/)?(?:.*/)?(?:LICEN|COPYING|NOTICE)", path)
    ]
    licensed = {path.partition(".dist-info")[0] for path in texts}
    assert len(licensed) > len(packages) * 0.9, "a few wheels bring no text"


def test_each_module_of_the_product_loads(image: Image) -> None:
    assert int(image.python(_IMPORT_ALL)) > 100


def test_texts_are_embedded_and_authorities_known(image: Image) -> None:
    assert image.python(_EMBED).splitlines() == ["(1, 256)", "True"]


async def test_it_migrates_a_database_and_reads_it(image: Image, unmigrated: TestDatabase) -> None:
    def options(setting: str) -> tuple[str, ...]:
        # The server listens on 127.0.0.1.
        return ("--network", "host", "--env", f"{setting}={unmigrated.owner_url}")

    image.run("migrate", options=options("DATASTORAGE_DATABASE_OWNER_URL"))
    listed = image.run("list", "-o", "json", options=options("DATASTORAGE_DATABASE_URL"))
    assert json.loads(listed)["records"] == []
