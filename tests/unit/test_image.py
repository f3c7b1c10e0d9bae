"""The image: the same archive from builds that differ in nothing that counts, and the list of its parts."""

import gzip
import io
import json
import re
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from datastorage.settings import setting_names
from harness.image.sbom import with_base
from harness.image.settle import settle_archive

ROOT = Path(__file__).parents[2]
CREATED = 1_764_000_000
_LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))


def _tar(path: Path, members: dict[str, bytes], **attributes: Any) -> bytes:
    """Return an archive; the attributes are those of each member."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(written.getvalue())
    return written.getvalue()


def _saved(
    folder: Path, *, time: float, builder: str, content: bytes = b"x", compressed: bool = False
) -> Path:
    """Return what `docker save` writes about an image that was built at a time, by a builder.

    An engine that keeps layers as registries do saves them compressed.
    """
    layer = _tar(folder / "layer.tar", {"opt/file": content}, mtime=time, uname=builder, mode=0o755)
    if compressed:
        layer = gzip.compress(layer)
    configuration = {
        "architecture": "arm64",
        "os": "linux",
        "container": builder,
        "created": f"{time}",
        "config": {
            "Hostname": builder,
            "User": "65532",
            "Entrypoint": ["datastorage"],
            "Labels": {"a": "b"},
            "Volumes": None,
        },
        "history": [
            {"created": f"{time}", "created_by": "COPY /layers /"},
            {"created": f"{time}", "created_by": "USER 65532", "empty_layer": True},
        ],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]},
    }
    saved = folder / "saved.tar"
    manifest = [{"Config": f"{builder}.json", "RepoTags": ["t:1"], "Layers": [f"{builder}/layer.tar"]}]
    members = {
        f"{builder}/layer.tar": layer,
        f"{builder}.json": json.dumps(configuration).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    _tar(saved, members)
    return saved


def _settled(folder: Path, **differences: Any) -> tuple[str, bytes]:
    folder.mkdir()
    saved = _saved(folder, **differences)
    identifier = settle_archive(saved, folder / "settled.tar", "name:1", CREATED)
    return identifier, (folder / "settled.tar").read_bytes()


def test_a_settled_image_tells_neither_when_nor_where_it_was_built(tmp_path: Path) -> None:
    one = _settled(tmp_path / "one", time=1_700_000_000.25, builder="one")
    assert _settled(tmp_path / "two", time=1_800_000_000.75, builder="two") == one
    assert _settled(tmp_path / "packed", time=1_900_000_000, builder="packed", compressed=True) == one
    other, _ = _settled(tmp_path / "other", time=1_700_000_000, builder="one", content=b"y")
    assert other != one[0], "another content"


def test_a_settled_image_keeps_what_counts(tmp_path: Path) -> None:
    identifier, archive = _settled(tmp_path / "one", time=1_700_000_000, builder="one")
    with tarfile.open(fileobj=io.BytesIO(archive)) as settled:
        contents = {member.name: settled.extractfile(member).read() for member in settled}  # type: ignore[union-attr]
    (manifest,) = json.loads(contents["manifest.json"])
    assert manifest["RepoTags"] == ["name:1"]
    assert f"sha256:{manifest['Config']}" == f"{identifier}.json"
    configuration = json.loads(contents[manifest["Config"]])
    assert configuration["architecture"] == "arm64"
    assert configuration["created"] == "2025-11-24T16:00:00Z"
    assert configuration["config"] == {
        "User": "65532",
        "Entrypoint": ["datastorage"],
        "Labels": {"a": "b"},
    }
    assert [step["created_by"] for step in configuration["history"]] == ["COPY /layers /"]
    (layer,) = manifest["Layers"]
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{layer.removesuffix('.tar')}"]
    with tarfile.open(fileobj=io.BytesIO(contents[layer])) as files:
        (file,) = files.getmembers()
        assert (file.name, file.mode, files.extractfile(file).read()) == ("opt/file", 0o755, b"x")  # type: ignore[union-attr]


def test_the_list_of_parts_is_valid_and_names_base_and_packages() -> None:
    product = {
        "type": "library",
        "bom-ref": "kubernaut-datastorage==0.1.0",
        "name": "kubernaut-datastorage",
        "version": "0.1.0",
    }
    environment = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": "2025-11-24T16:00:00+00:00"},
        "components": [product],
        "dependencies": [{"ref": product["bom-ref"]}],
    }
    package = (
        "Package: libc6\nSource: glibc (2.36)\nVersion: 2:2.36-9+deb12u13\nArchitecture: amd64\n"
        "Maintainer: A <a@example.org>\n"
    )
    release = {"ID": "debian", "VERSION_ID": "12"}
    document = with_base(environment, [package], release, "0.1.0", "03a1df7")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert [part["name"] for part in document["components"]] == ["kubernaut-datastorage", "python", "libc6"]
    url = "pkg:deb/debian/libc6@2%3A2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12&upstream=glibc"
    assert document["components"][-1]["purl"] == url
    assert document["metadata"]["component"]["type"] == "container"
    image = document["metadata"]["component"]["bom-ref"]
    assert document["dependencies"][-1] == {"ref": image, "dependsOn": [product["bom-ref"], "python", url]}


def _pruned() -> set[str]:
    """The packages that the build of the image leaves out, or installs from any platform's wheel."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return set(re.findall(r"--(?:prune|no-emit-package) (\S+)", dockerfile))


def _installed(environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Return the locked packages that the image has on a platform, with its optional part."""
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in _LOCK["package"]:
        packages.setdefault(package["name"], []).append(package)
    waiting: list[dict[str, Any]] = [{"name": "kubernaut-datastorage", "extra": ["onnx"]}]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = wanted["name"]
        key = (name, wanted.get("version"), *wanted.get("extra", ()))
        if name in _pruned() or key in seen or not _applies(wanted, environment):
            continue
        seen.add(key)
        for package in packages[name]:
            if wanted.get("version", package.get("version")) != package.get("version"):
                continue
            if "wheels" in package or "sdist" in package:
                yield package
            extras = package.get("optional-dependencies", {})
            waiting += package.get("dependencies", [])
            waiting += [one for extra in wanted.get("extra", ()) for one in extras.get(extra, [])]


def _applies(wanted: dict[str, Any], environment: dict[str, str]) -> bool:
    return "marker" not in wanted or Marker(wanted["marker"]).evaluate(environment)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", [(3, 11), (3, 12), (3, 13)])
def test_each_locked_package_has_a_wheel_for_each_platform(machine: str, python: tuple[int, int]) -> None:
    """The image compiles nothing. Its base is Debian 12 or later, which has glibc 2.36."""
    version = ".".join(map(str, python))
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)] + [
        f"manylinux2014_{machine}"
    ]
    tags = {
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, f"cp{python[0]}{python[1]}", platforms),
    }
    environment = {
        "python_version": version,
        "python_full_version": f"{version}.9",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }
    installed = list(_installed(environment))
    expected = {"asyncpg", "numpy", "hiredis", "greenlet", "kopf", "onnxruntime"}
    assert expected <= {package["name"] for package in installed}
    for package in installed:
        files = [wheel["url"].rpartition("/")[2] for wheel in package.get("wheels", ())]
        assert any(parse_wheel_filename(file)[3] & tags for file in files), (package["name"], files)


def test_the_image_sets_nothing_that_a_setting_could_not_change() -> None:
    """A variable of ours in the image would hide that a ConfigMap has not set it."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not [name for name in setting_names() if f"{name}=" in dockerfile]
