"""Reads crds/ and manifests/, which the chart is made from."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """A checkout of the repository."""

    repository: Path

    def objects(self, path: str) -> list[Object]:
        """Return the objects of a file below manifests/."""
        return [each for each in yaml.safe_load_all(self.text(path)) if each]

    def found(self, path: str, kind: str, name: str) -> Object:
        """Return one object of a file below manifests/.

        Raises:
            LookupError: it is not there.
        """
        for each in self.objects(path):
            if each["kind"] == kind and each["metadata"]["name"] == name:
                return each
        raise LookupError(f"manifests/{path} has no {kind} {name}")

    def settings(self, folder: str) -> dict[str, str]:
        """Return the settings that a kustomization puts into the ConfigMap."""
        generators = self.kustomization(folder)["configMapGenerator"]
        [literals] = [each["literals"] for each in generators if each["name"] == "datastorage-config"]
        return dict(literal.split("=", 1) for literal in literals)

    def patches(self, folder: str) -> list[Any]:
        """Return the parsed patches of a kustomization."""
        return [yaml.safe_load(each["patch"]) for each in self.kustomization(folder)["patches"]]

    def kustomization(self, folder: str) -> Object:
        """Return the kustomization of a folder below manifests/."""
        [kustomization] = self.objects(f"{folder}/kustomization.yaml")
        return deepcopy(kustomization)

    def text(self, path: str) -> str:
        """Return the text of a file below manifests/."""
        return (self.repository / "manifests" / path).read_text()

    def definitions(self) -> dict[str, str]:
        """Return the text of each custom resource definition, by the name of its file."""
        folder = self.repository / "crds"
        files = sorted(path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
        return {path.name: path.read_text() for path in files}
