"""Makes an image that was built the same each time: whoever built it, wherever and whenever.

Old builders write the time of the build and the names of temporary containers into the image, and every
builder stamps some folders with its own time. So the image is saved, written again without them, and loaded.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from harness.image.tree import TIME

_MEGABYTE: Final = 1_000_000  # as engines print sizes
# The others are about the build, and may have its time or its machine in them.
_SETTINGS: Final = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes", "WorkingDir",
)  # fmt: skip
_OF_THE_CONFIGURATION: Final = ("architecture", "os", "variant")


def settle_archive(saved: Path, settled: Path, tag: str, created: int) -> str:
    """Write an archive of `docker save` again, with one tag and one time. Return the image's identifier.

    That is the digest of its configuration, which names the digests of the layers.
    """
    with (
        tarfile.open(saved) as source,
        tarfile.open(settled, "w", format=tarfile.USTAR_FORMAT) as target,
        tempfile.TemporaryDirectory() as folder,
    ):
        (manifest,) = json.load(_open(source, "manifest.json"))
        built = json.load(_open(source, manifest["Config"]))
        layers = []
        for name in manifest["Layers"]:
            layer = Path(folder, "layer.tar")
            _write_layer(_open(source, name), layer)
            with layer.open("rb") as file:
                layers.append(hashlib.file_digest(file, "sha256").hexdigest())
            _add(target, f"{layers[-1]}.tar", layer)
        configuration = json.dumps(_configuration(built, layers, created), sort_keys=True).encode()
        identifier = hashlib.sha256(configuration).hexdigest()
        index = [
            {
                "Config": f"{identifier}.json",
                "RepoTags": [tag],
                "Layers": [f"{layer}.tar" for layer in layers],
            }
        ]
        for name, content in (
            (f"{identifier}.json", configuration),
            ("manifest.json", json.dumps(index).encode()),
        ):
            path = Path(folder, "content")
            path.write_bytes(content)
            _add(target, name, path)
    return f"sha256:{identifier}"


def _configuration(built: Mapping[str, Any], layers: list[str], created: int) -> dict[str, Any]:
    time = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    steps = [step for step in built["history"] if not step.get("empty_layer")]
    return {
        **{key: built[key] for key in _OF_THE_CONFIGURATION if built.get(key)},
        "created": time,
        "config": {key: built["config"][key] for key in _SETTINGS if built["config"].get(key)},
        "history": [{"created": time, "created_by": step["created_by"]} for step in steps],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
    }


def _write_layer(source: Any, target: Path) -> None:
    with (
        tarfile.open(fileobj=source, mode="r|*") as old,
        tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            member.mtime = TIME
            member.uname = member.gname = ""
            member.pax_headers = {}  # times again, in fractions of seconds
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _open(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    if found is None:
        raise SystemExit(f"the saved image has no {name}")
    return found


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    member.mtime = TIME
    with path.open("rb") as file:
        archive.addfile(member, file)


def _with_tag(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def main() -> None:
    """Settle the image that an engine has under a name."""
    parser = argparse.ArgumentParser(prog="python -m harness.image.settle", description=__doc__)
    parser.add_argument("image", help="name of the image, which the settled one gets")
    parser.add_argument("--created", type=int, required=True, help="the image's time, in seconds since 1970")
    parser.add_argument("--docker", default="docker", help="the engine's program (default: docker)")
    options = parser.parse_args()

    def docker(*arguments: str) -> str:
        done = subprocess.run([options.docker, *arguments], check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)  # it has printed why
        return done.stdout.strip()

    built = docker("image", "inspect", "--format", "{{.Id}}", options.image)
    with tempfile.TemporaryDirectory() as folder:
        saved, settled = Path(folder, "saved.tar"), Path(folder, "settled.tar")
        docker("image", "save", "--output", str(saved), options.image)
        identifier = settle_archive(saved, settled, _with_tag(options.image), options.created)
        docker("image", "load", "--quiet", "--input", str(settled))
    loaded, size = docker("image", "inspect", "--format", "{{.Id}} {{.Size}}", options.image).split()
    if loaded != built:
        # The one that was built has no name any more. Its layers stay as the builder's cache.
        subprocess.run([options.docker, "image", "rm", "--no-prune", built], check=False, capture_output=True)
    sys.stdout.write(f"{options.image} {identifier} {int(size) / _MEGABYTE:.0f} MB\n")


if __name__ == "__main__":
    main()
