"""Checks all manifests: `python -m harness.manifestlint`."""

import subprocess
import sys
from pathlib import Path

from harness.controlplane.binaries import kubernetes_version
from harness.controlplane.errors import ControlPlaneError
from harness.manifestlint.kubescore import findings, problems
from harness.manifestlint.programs import Linters, ensure_linters
from harness.manifestlint.renderings import BASE, MANIFESTS, Rendering, renderings
from harness.manifestlint.schemas import LOCATION

# In no kustomization, because they are applied by hand, or never.
_FILES = (BASE / "secret.example.yaml", MANIFESTS / "apiserver" / "keep-guards.yaml")


def main() -> int:
    try:
        linters = ensure_linters()
        found = list(renderings(linters.kubectl))
        files = [Rendering(path.name, path.read_text()) for path in _FILES]
        wrong = [line for each in (*found, *files) for line in _schema_problems(linters, each)]
        minor = kubernetes_version().rpartition(".")[0]
        wrong += problems(finding for each in found for finding in findings(linters.kube_score, minor, each))
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(found)} renderings of the manifests checked, {len(wrong)} problems")
    return 1 if wrong else 0


def _schema_problems(linters: Linters, rendering: Rendering) -> list[str]:
    """Return what kubeconform says against the objects of a rendering, one line each."""
    done = subprocess.run(
        [linters.kubeconform, "-strict", "-schema-location", str(Path(linters.schemas) / LOCATION), "-"],
        input=rendering.text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == 0:
        return []
    return [f"{rendering.name}: {line}" for line in (done.stdout + done.stderr).splitlines()]


if __name__ == "__main__":
    sys.exit(main())
