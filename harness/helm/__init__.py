"""Helm, built once per machine into the user's cache folder: the tests of the chart run it."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.controlplane import Cluster
from harness.controlplane.cache import cache_directory
from harness.controlplane.gobuild import STRIPPED, GoBuild, GoModule, ensure_programs

_MODULE: Final = GoModule(Path(__file__).resolve().parent)
_HELM: Final = "helm.sh/helm/v4"
_USUAL_SECONDS: Final = 100  # on 2 cores; fewer if Go still has the packages that the control plane shares
_TIMEOUT: Final = 120.0  # seconds for one command


class HelmError(Exception):
    """Helm exited with an error; the message is Helm's own."""


@dataclass(frozen=True)
class Helm:
    """Runs Helm on a cluster or on none, with a folder of its own, so that nothing of this user's counts."""

    program: Path
    folder: Path
    cluster: Cluster | None = None

    def __call__(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Return what a command prints.

        Raises:
            HelmError: it failed.
        """
        environment = self.cluster.environment if self.cluster else os.environ | {"KUBECONFIG": os.devnull}
        homes = {f"HELM_{name}_HOME": str(self.folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        given = [] if values is None else ["--values", "-"]
        done = subprocess.run(
            [self.program, *arguments, *given],
            input=json.dumps(values), capture_output=True, text=True, check=False, timeout=_TIMEOUT,
            env=environment | homes,
        )  # fmt: skip
        if done.returncode != 0:
            raise HelmError(done.stderr.strip())
        return done.stdout


def helm_path() -> Path:
    """Return the helm that go.mod requires, built if needed; reports on stderr what is built.

    A helm on PATH is not used: what a template renders depends on its version.

    Raises:
        BuildError: Go is missing and cannot be installed, or the build failed.
    """
    version = _MODULE.requires(_HELM)
    stamp = f"-X {_HELM}/internal/version.version={version}"
    build = GoBuild("helm", f"{_HELM}/cmd/helm", _MODULE, _USUAL_SECONDS, (*STRIPPED, stamp))
    return ensure_programs([build], cache_directory("helm") / version, "helm")[build.name]
