"""What `python -m e2e.kind` decides before there is a cluster: options, images, dockerd."""

from pathlib import Path

import pytest

from e2e.kind import nodes, suites
from e2e.kind.cluster import docker_daemon
from e2e.kind.options import NAME, PARTS, parse
from harness.controlplane import ControlPlaneError
from harness.docker import Daemon, Docker, DockerError


class Registry(Docker):
    """A Docker that can pull the images of a registry, and no others."""

    def __init__(self, *images: str) -> None:
        self.images = images

    def has_image(self, tag: str) -> bool:  # noqa: ARG002 -- as in Docker
        return False

    def pull(self, image: str) -> str | None:
        return None if image in self.images else "no such host"


def test_defaults_are_the_whole_run_removed_again() -> None:
    options = parse([])
    assert options.parts == PARTS
    assert options.name == NAME
    assert options.images == "auto"
    assert options.build
    assert not options.keep


def test_pytest_gets_what_follows_the_dashes(tmp_path: Path) -> None:
    (tmp_path / "kind").touch()
    options = parse(["--keep", "--kind-bin", str(tmp_path / "kind"), "--", "-k", "drain", "-x"])
    assert options.pytest_arguments == ("-k", "drain", "-x")
    assert options.kind_bin == tmp_path / "kind"
    assert options.keep


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--until", "installation"], ("installation",)),
        (["--until", "installed"], ("installation", "installed")),
        (["--only", "cluster"], ("installation", "cluster")),
        (["--only", "cluster", "--only", "installed"], PARTS),
    ],
)
def test_parts_are_chosen(arguments: list[str], parts: tuple[str, ...]) -> None:
    assert parse(arguments).parts == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind-bin", "/nonexistent/kind"], "--kind-bin: /nonexistent/kind is not a file"),
        (["--until", "cluster", "--only", "cluster"], "not allowed with argument"),
        (["--images", "mine"], "invalid choice: 'mine'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_upstream_images_are_used_where_docker_can_pull() -> None:
    chosen = nodes.choose(Registry(nodes.UPSTREAM), "auto", None)
    assert chosen.node == nodes.UPSTREAM
    assert chosen.kind is None
    assert chosen.base is None
    assert chosen.databases == {}


def test_another_node_image_is_used_beside_upstream_ones() -> None:
    chosen = nodes.choose(Registry(nodes.UPSTREAM, "kindest/node:v1.35.8"), "auto", "kindest/node:v1.35.8")
    assert chosen.node == "kindest/node:v1.35.8"
    assert chosen.databases == {}


def test_upstream_images_that_cannot_be_pulled_are_an_error_with_the_reason() -> None:
    with pytest.raises(ControlPlaneError, match=r"cannot pull kindest/node:.*: no such host; --images built"):
        nodes.choose(Registry(), "upstream", None)


def test_a_node_image_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ControlPlaneError, match="--node-image mine:1 is neither in Docker nor"):
        nodes.choose(Registry(nodes.UPSTREAM), "auto", "mine:1")


def test_what_is_left_out_exists() -> None:
    """A renamed file would run on kind without a word."""
    here = Path(__file__).parent
    assert [name for name in suites.ELSEWHERE if not (here / name).is_file()] == []


class Noted(Daemon):
    """A dockerd that is only noted."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.runs = answers
        self.in_use = False

    def start_if_needed(self) -> bool:
        started, self.runs = not self.runs, True
        return started

    def stop(self, *, force: bool = False) -> None:
        if self.in_use and not force:
            raise DockerError("containers run in it")
        self.runs = False


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
def test_dockerd_is_stopped_where_it_was_started() -> None:
    daemon = Noted(answers=False)
    with docker_daemon("a", keep=False, daemon=daemon):
        assert daemon.runs
    assert not daemon.runs


@pytest.mark.usefixtures("_folder")
def test_a_dockerd_that_was_there_stays() -> None:
    daemon = Noted(answers=True)
    with docker_daemon("a", keep=False, daemon=daemon):
        pass
    assert daemon.runs


@pytest.mark.usefixtures("_folder")
def test_a_kept_dockerd_is_stopped_by_the_next_run_of_that_cluster() -> None:
    daemon = Noted(answers=False)
    with docker_daemon("a", keep=True, daemon=daemon):
        pass
    with docker_daemon("b", keep=False, daemon=daemon):
        pass
    assert daemon.runs
    with docker_daemon("a", keep=False, daemon=daemon):
        pass
    assert not daemon.runs


@pytest.mark.usefixtures("_folder")
def test_a_dockerd_that_others_use_stays(capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Noted(answers=False)
    daemon.in_use = True
    with docker_daemon("a", keep=False, daemon=daemon):
        pass
    assert daemon.runs
    assert "containers run in it" in capsys.readouterr().err
