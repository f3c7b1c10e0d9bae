"""The sets of manifests that are checked: the base and each overlay, alone and with every component."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY
from harness.controlplane.errors import ControlPlaneError

MANIFESTS = REPOSITORY / "manifests"
BASE = MANIFESTS / "base"
OVERLAYS = sorted(path.parent for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(
    path.parent
    for pattern in ("components/**/kustomization.yaml", "monitoring/**/kustomization.yaml")
    for path in MANIFESTS.glob(pattern)
)
DEVELOPMENT = MANIFESTS / "overlays" / "development"


@dataclass(frozen=True)
class Rendering:
    """What a folder with a kustomization gives."""

    name: str
    text: str


def renderings(kubectl: Path) -> Iterator[Rendering]:
    """Render everything that is to be checked.

    Raises:
        ControlPlaneError: a kustomization is wrong.
    """
    for directory in (BASE, *OVERLAYS):
        yield Rendering(directory.name, rendered(kubectl, directory))
    with tempfile.TemporaryDirectory() as folder:
        everything = compose(Path(folder), BASE, COMPONENTS)
        yield Rendering("base-with-all-components", rendered(kubectl, everything))
        guarded = compose(Path(folder), DEVELOPMENT, [DEVELOPMENT / "networkpolicy"])
        yield Rendering("development-with-networkpolicy", rendered(kubectl, guarded))


def compose(folder: Path, resources: Path, components: list[Path]) -> Path:
    """Make a kustomization of manifests and components in a folder; return the folder."""
    # kustomize takes no absolute paths. A temporary folder may be a link: the path starts where it leads.
    folder = folder.resolve()
    kustomization = {
        "resources": [os.path.relpath(resources, folder)],
        "components": [os.path.relpath(component, folder) for component in components],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


def rendered(kubectl: Path, directory: Path) -> str:
    """Return what `kubectl kustomize` makes of a folder."""
    done = subprocess.run(
        [kubectl, "kustomize", directory], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise ControlPlaneError(f"kubectl kustomize {directory}: {done.stderr.strip()}")
    return done.stdout
