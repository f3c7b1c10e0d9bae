"""The keys of built images, and which of them are kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.controlplane.errors import BuildError
from harness.controlplane.progress import Steps
from harness.docker import Docker
from harness.nodeimage import Artefact, debian, images
from harness.nodeimage.artefacts import KEPT_DAYS, folder, key, programs_folder, remove_unused
from harness.nodeimage.programs import KIND_TOOL, TOOLS

NOW = 1_000_000_000.0  # seconds since 1970


class Recorded(Docker):
    """Stands in for Docker: remembers the images that it has."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self.loaded: list[Path] = []

    def has_image(self, tag: str) -> bool:
        return tag in self.images

    def save(self, tags: object, archive: Path) -> None:
        archive.write_text(str(tags))

    def load(self, archive: Path) -> None:
        self.loaded.append(archive)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def built(docker: Docker, tag: str, _steps: Steps) -> None:
    assert isinstance(docker, Recorded)
    assert tag not in docker.images
    docker.images.add(tag)


def test_an_image_is_built_once(capsys: pytest.CaptureFixture[str]) -> None:
    docker, artefact = Recorded(), Artefact("node", "0123456789ab", 1, built)
    artefact.ensure(docker, Steps(1))
    assert artefact.archive.name == "node-0123456789ab.tar.zst"
    assert artefact.tag == "kubernaut-datastorage-node:0123456789ab"
    assert f"Kept {artefact.archive}" in capsys.readouterr().err
    artefact.ensure(docker, Steps(1))
    assert docker.loaded == []


def test_a_kept_image_is_loaded_where_docker_does_not_have_it() -> None:
    artefact = Artefact("node", "0123456789ab", 1, built)
    artefact.ensure(Recorded(), Steps(1))
    other = Recorded()
    artefact.ensure(other, Steps(1))
    assert other.loaded == [artefact.archive]
    assert other.images == set()


def test_an_image_that_another_process_has_built_meanwhile_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Docker may be another one."""
    artefact, docker = Artefact("node", "0123456789ab", 1, built), Recorded()

    @contextmanager
    def after_another(*_: object) -> Iterator[None]:
        folder().mkdir(parents=True)
        artefact.archive.touch()
        yield

    monkeypatch.setattr("harness.nodeimage.artefacts.build_lock", after_another)
    artefact.ensure(docker, Steps(1))
    assert docker.images == set(), "it is not built again"
    assert docker.loaded == [artefact.archive]


def test_an_interrupted_build_leaves_no_archive() -> None:
    def interrupted(_docker: Docker, _tag: str, _steps: Steps) -> None:
        raise KeyboardInterrupt

    artefact = Artefact("node", "0123456789ab", 1, interrupted)
    with pytest.raises(KeyboardInterrupt):
        artefact.ensure(Recorded(), Steps(1))
    assert not artefact.archive.exists()


def test_the_key_follows_every_input(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_text("one")
    first = key("text", tmp_path)
    assert key("text", tmp_path) == first
    (tmp_path / "inner" / "a.pyc").write_bytes(b"compiled")
    assert key("text", tmp_path) == first
    (tmp_path / "inner" / "a").write_text("two")
    changed = key("text", tmp_path)
    (tmp_path / "inner" / "a").rename(tmp_path / "inner" / "b")
    renamed = key("text", tmp_path)
    assert len({first, changed, renamed, key("other", tmp_path)}) == 4
    assert key("ab", "c") != key("a", "bc")


def test_the_databases_follow_their_base() -> None:
    made = images()
    assert len({artefact.archive for artefact in made.all}) == len(made.all)
    assert made.all[0] is made.base


def test_only_what_nothing_uses_is_removed() -> None:
    names = ("kept", "old", "recent")
    archives = [Artefact(name, "0123456789ab", 1, built).archive for name in names]
    programs = [programs_folder(name) for name in names]
    for folder_of_programs in programs:
        folder_of_programs.mkdir(parents=True)
        (folder_of_programs / "kubelet").touch()
    for archive in archives:
        archive.touch()
    for entries in (archives, programs):
        for entry, days in zip(entries, (KEPT_DAYS + 1, KEPT_DAYS + 1, KEPT_DAYS - 1), strict=True):
            os.utime(entry, (NOW - days * 86400, NOW - days * 86400))
    assert remove_unused([archives[0], programs[0]], now=NOW) == [archives[1], programs[1]]
    assert [entry.exists() for entry in (*archives, *programs)] == [True, False, True] * 2


def test_missing_packages_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"apt-get install debootstrap zstd tar util-linux[^\n]*$"):
        debian.check_needs()


def test_every_program_has_its_version_in_go_mod() -> None:
    flags = {tool.name: tool.linker_flags for tool in (*TOOLS, KIND_TOOL)}
    assert len(flags) == len(TOOLS) + 1
    assert any("version.Version=v" in flag for flag in flags["containerd"])
    assert any("version.Version=v" in flag for flag in flags["crictl"])
