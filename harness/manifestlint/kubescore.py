"""Runs kube-score, and compares what it finds with the exemptions."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.controlplane.errors import ControlPlaneError
from harness.manifestlint.exemptions import EXEMPTIONS, Exemption
from harness.manifestlint.renderings import Rendering

_ALL_IS_WELL = 10  # the grade of a check that found nothing


@dataclass(frozen=True)
class Finding:
    """Something that kube-score says about an object."""

    rendering: str
    object: str
    check: str
    comment: str

    def is_exempt_by(self, exemption: Exemption) -> bool:
        """Whether an exemption is about this."""
        return (
            (self.check, self.object) == (exemption.check, exemption.object)
            and (not exemption.renderings or self.rendering in exemption.renderings)
        )  # fmt: skip


def findings(kube_score: Path, kubernetes_version: str, rendering: Rendering) -> list[Finding]:
    """Return what kube-score finds in a rendering.

    Raises:
        ControlPlaneError: it gives no answer.
    """
    done = subprocess.run(
        [
            kube_score, "score", "--kubernetes-version", kubernetes_version,
            # See base/deployment.yaml: throttling would slow the probes.
            "--ignore-container-cpu-limit",
            "--output-format", "json", "--output-version", "v2", "-",
        ],
        input=rendering.text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    try:
        objects = json.loads(done.stdout)
    except ValueError as error:
        raise ControlPlaneError(f"kube-score: {done.stderr.strip() or done.stdout[:500]}") from error
    return [finding for each in objects for finding in _of_object(rendering.name, each)]


def _of_object(rendering: str, found: dict[str, Any]) -> Iterator[Finding]:
    name = f"{found['type_meta']['kind']}/{found['object_meta']['name']}"
    for check in found["checks"]:
        if not check["skipped"] and check["grade"] < _ALL_IS_WELL:
            for comment in check["comments"] or [{"path": "", "summary": check["check"]["comment"]}]:
                where = f"{comment['path']}: " if comment["path"] else ""
                yield Finding(rendering, name, check["check"]["id"], where + comment["summary"])


def problems(found: Iterable[Finding], exemptions: Iterable[Exemption] = EXEMPTIONS) -> list[str]:
    """Return a line for each finding that is not exempt, and for each exemption that nothing needs."""
    found, exemptions = list(found), list(exemptions)
    lines = [
        f"{finding.rendering}: {finding.object}: {finding.comment} ({finding.check})"
        for finding in found
        if not any(finding.is_exempt_by(exemption) for exemption in exemptions)
    ]
    lines += [
        f"exemptions.py: nothing needs {exemption.check} of {exemption.object}: remove it"
        for exemption in exemptions
        if not any(finding.is_exempt_by(exemption) for finding in found)
    ]
    return list(dict.fromkeys(lines))
