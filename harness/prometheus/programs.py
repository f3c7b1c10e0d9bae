"""Prometheus, promtool and Alertmanager: built once per machine, and kept in the user's cache folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from harness.controlplane.cache import cache_directory
from harness.controlplane.gobuild import GoBuild, GoModule, ensure_programs

_FOLDER: Final = Path(__file__).resolve().parent
_MODULE: Final = GoModule(_FOLDER)
_PROMETHEUS: Final = "github.com/prometheus/prometheus"
_ALERTMANAGER: Final = "github.com/prometheus/alertmanager"
_PAGES: Final = Path("ui", "web.go")
_NO_PAGES: Final = _FOLDER / "_ui" / "web.go"  # Go ignores a folder with such a name
# Targets are named by the tests, or found in a cluster. The discoveries of clouds would bring their clients,
# and minutes of building.
_TAGS: Final = ("remove_all_sd", "enable_kubernetes_sd")
# In this order each build finds many of its packages compiled by the one before.
_PROMTOOL: Final = GoBuild("promtool", f"{_PROMETHEUS}/cmd/promtool", _MODULE, 150, tags=_TAGS)
_SERVER: Final = GoBuild("prometheus", f"{_PROMETHEUS}/cmd/prometheus", _MODULE, 90, tags=_TAGS)
_SERVER_ALONE_SECONDS: Final = 240  # at most: most packages are those of promtool, which is not built then


@dataclass(frozen=True)
class Programs:
    """Paths of the programs."""

    prometheus: Path
    promtool: Path
    alertmanager: Path


def ensure_prometheus() -> Programs:
    """Find the programs, and build those that are missing; report on stderr what is built.

    Programs on PATH are not used: what a rule does depends on their version.

    Raises:
        BuildError: Go is missing and cannot be installed, or a build failed.
    """
    folder = _folder()
    found = ensure_programs((_PROMTOOL, _SERVER), folder, "Prometheus")
    alertmanager = folder / "alertmanager"
    if not alertmanager.exists():
        with _alertmanager_without_pages() as module:
            build = GoBuild(alertmanager.name, "./cmd/alertmanager", module, 150)
            ensure_programs([build], folder, "Alertmanager")
    return Programs(**found, alertmanager=alertmanager)


def ensure_prometheus_alone() -> Path:
    """Find Prometheus itself, and build it if it is missing; report on stderr what is built.

    Raises:
        BuildError: Go is missing and cannot be installed, or the build failed.
    """
    build = replace(_SERVER, usual_seconds=_SERVER_ALONE_SECONDS)
    return ensure_programs([build], _folder(), "Prometheus")[build.name]


def _folder() -> Path:
    """Return the folder of the programs, which is named after everything that they are built from."""
    inputs = (_FOLDER / "go.sum", _NO_PAGES)
    contents = (*(path.read_bytes() for path in inputs), *(tag.encode() for tag in _TAGS))
    key = sha256(b"".join(contents)).hexdigest()[:12]
    return cache_directory("prometheus") / f"{_MODULE.requires(_PROMETHEUS)}-{key}"


@contextmanager
def _alertmanager_without_pages() -> Iterator[GoModule]:
    """Make a copy of the sources that can be built: the module lacks the pages that it embeds.

    The copy keeps the versions of all other modules that Alertmanager itself has chosen.
    """
    source = _MODULE.source(_ALERTMANAGER)
    with tempfile.TemporaryDirectory(prefix="datastorage-alertmanager-") as name:
        copy = Path(name)
        for path in source.rglob("*"):
            if path.is_file():
                target = copy / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        shutil.copyfile(_NO_PAGES, copy / _PAGES)
        yield GoModule(copy)
