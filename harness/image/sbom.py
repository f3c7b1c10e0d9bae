"""Writes the list of all parts of the image (SBOM, CycloneDX): Python's packages, and those of the base.

cyclonedx-py has listed the packages of the environment; this adds the base's.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from harness.image.packages import fields
from harness.image.rootfs import PRODUCT, SBOM, STATUS

_IMAGE: Final = f"{PRODUCT}-image"


def with_base(
    environment: Mapping[str, Any],
    paragraphs: list[str],
    release: Mapping[str, str],
    version: str,
    revision: str,
) -> dict[str, Any]:
    """Return the image's list, made of an environment's list and the paragraphs of the base's packages."""
    base = [_debian_package(fields(paragraph), release) for paragraph in paragraphs]
    interpreter = {
        "type": "application",
        "bom-ref": "python",
        "name": "python",
        "version": platform.python_version(),
        "purl": f"pkg:generic/python@{platform.python_version()}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    image = {
        "type": "container",
        "bom-ref": _IMAGE,
        "name": PRODUCT,
        "version": version,
        "properties": [{"name": "org.opencontainers.image.revision", "value": revision}],
    }
    (product,) = (part["bom-ref"] for part in environment["components"] if part["name"] == PRODUCT)
    contents = [interpreter, *base]
    return {
        **environment,
        "metadata": {**environment["metadata"], "component": image},
        "components": [*environment["components"], *contents],
        "dependencies": [
            *environment["dependencies"],
            {"ref": _IMAGE, "dependsOn": [product, *(part["bom-ref"] for part in contents)]},
        ],
    }


def _debian_package(package: Mapping[str, str], release: Mapping[str, str]) -> dict[str, Any]:
    name, version = package["Package"], package["Version"]
    distribution = release["ID"]
    url = (
        f"pkg:deb/{distribution}/{quote(name)}@{quote(version, safe='')}"
        f"?arch={package['Architecture']}&distro={distribution}-{release.get('VERSION_ID', '')}"
    )
    if source := package.get("Source", "").partition(" ")[0]:
        url += f"&upstream={quote(source)}"  # Debian's security advisories name it
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "supplier": {"name": package["Maintainer"]},
        "purl": url,
    }


def main() -> None:
    """Write the file; the arguments are the environment's list and the folder with the gathered base."""
    environment, gathered = sys.argv[1:]
    status = Path(gathered, STATUS.relative_to("/"))
    document = with_base(
        json.loads(Path(environment).read_text(encoding="utf-8")),
        [file.read_text(encoding="utf-8") for file in sorted(status.glob("*"))],
        platform.freedesktop_os_release(),
        os.environ["VERSION"],
        os.environ["REVISION"],
    )
    SBOM.parent.mkdir(parents=True, exist_ok=True)
    SBOM.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
