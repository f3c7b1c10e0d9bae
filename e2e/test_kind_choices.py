"""What `python -m e2e.kind` decides before there is a cluster, and after its tests: it needs none itself."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kind import __main__ as program
from e2e.kind import nodes, suites
from e2e.kind.cluster import Kind, docker_daemon
from e2e.kind.options import NAME, PARTS, parse
from harness.controlplane import ControlPlaneError
from harness.docker import Daemon, Docker, DockerError
from harness.polling import until_blocking


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
        (["--only", "processes"], ("processes",)),
        (["--only", "installed"], ("installation", "installed")),
        (["--only", "processes", "--only", "installed"], PARTS),
    ],
)
def test_parts_are_chosen(arguments: list[str], parts: tuple[str, ...]) -> None:
    assert parse(arguments).parts == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind-bin", "/nonexistent/kind"], "--kind-bin: /nonexistent/kind is not a file"),
        (["--until", "installed", "--only", "installed"], "not allowed with argument"),
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

    def __init__(self, directory: Path, *, answers: bool) -> None:
        super().__init__(directory / "docker")
        self.runs = answers
        self.has_containers = False
        self._is_for_runs = False

    @property
    def is_for_runs(self) -> bool:
        return self._is_for_runs

    def start_if_needed(self, *, for_runs: bool = False) -> bool:
        started, self.runs = not self.runs, True
        self._is_for_runs |= started and for_runs
        return started

    def stop(self, *, force: bool = False) -> None:
        if self.has_containers and not force:
            raise DockerError("containers run in it")
        if self._is_used() and not force:
            raise DockerError("another process uses it")
        self.runs = self._is_for_runs = False


def test_dockerd_is_stopped_where_it_was_started(tmp_path: Path) -> None:
    daemon = Noted(tmp_path, answers=False)
    with docker_daemon(keep=False, daemon=daemon):
        assert daemon.runs
    assert not daemon.runs


def test_a_dockerd_that_was_there_stays(tmp_path: Path) -> None:
    daemon = Noted(tmp_path, answers=True)
    with docker_daemon(keep=False, daemon=daemon):
        pass
    assert daemon.runs


def test_a_kept_dockerd_is_stopped_by_a_later_run(tmp_path: Path) -> None:
    daemon = Noted(tmp_path, answers=False)
    with docker_daemon(keep=True, daemon=daemon):
        pass
    assert daemon.runs
    with docker_daemon(keep=False, daemon=daemon):
        pass
    assert not daemon.runs


def test_a_dockerd_with_containers_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Noted(tmp_path, answers=False)
    daemon.has_containers = True
    with docker_daemon(keep=False, daemon=daemon):
        pass
    assert daemon.runs
    assert "containers run in it" in capsys.readouterr().err
    daemon.has_containers = False
    with docker_daemon(keep=False, daemon=daemon):
        pass
    assert not daemon.runs, "the next run stops it"


def test_the_last_of_several_runs_stops_dockerd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One builds images when another ends: no container says that dockerd is in use."""
    daemon = Noted(tmp_path, answers=False)
    with docker_daemon(keep=False, daemon=daemon):
        with docker_daemon(keep=False, daemon=daemon):
            pass
        assert daemon.runs
        assert "another process uses it" in capsys.readouterr().err
    assert not daemon.runs


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("options", [[], ["--remove"]])
def test_a_refused_run_leaves_the_dockerd_of_the_first_one(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first one has started dockerd, and builds images: no container says that it is in use."""
    daemon = Noted(tmp_path, answers=False)
    monkeypatch.setattr("e2e.kind.cluster.Daemon", lambda: daemon)
    monkeypatch.setattr("e2e.kind.__main__.Daemon", lambda: daemon)
    monkeypatch.setattr("e2e.kind.__main__.REPOSITORY", tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["e2e.kind", "--name=a", *options])
    # An empty PATH has no docker, and so no Docker answers.
    monkeypatch.setenv("PATH", str(tmp_path))
    with Kind("a", Docker()).claimed(), docker_daemon(keep=False, daemon=daemon):
        assert program.main() == 1
        assert "another run uses the cluster a" in capsys.readouterr().err
        assert daemon.runs
    assert not daemon.runs, "the first one stops it"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 137], 137),
        ([0, -9], -9),
        ([1, 0], 1),
        ([None, 0], 0),
        ([None, 1], 1),
        ([None, None], suites.NO_TESTS),
        ([None], suites.NO_TESTS),
    ],
)
def test_a_run_succeeds_if_every_chosen_test_did(parts: list[int | None], status: int) -> None:
    assert suites.status_of(parts) == status


def test_a_killed_pytest_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status("kill -KILL $$", [], tmp_path, monkeypatch) == 137
    assert "pytest was ended by SIGKILL" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [(["-k", "mistyped"], None), ([], suites.NO_TESTS)])
def test_no_test_is_no_success_unless_arguments_choose_none(
    arguments: list[str], status: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _status(f"exit {suites.NO_TESTS}", arguments, tmp_path, monkeypatch) == status


def _use_for_pytest(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell command take the place of pytest."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


def _status(
    command: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> int | None:
    """Return the status of a run in which a shell command takes the place of pytest."""
    _use_for_pytest(command, tmp_path, monkeypatch)
    with suites.installed_tests(Kind("a", Docker()), arguments) as tests:
        return tests.wait()


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Let SIGINT end what a test starts, as e2e/kind does; the shell that runs pytest may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_folder", "_interruptible")
def test_what_runs_aside_is_shown_in_the_end_and_ended_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = Kind("a", Docker())
    kind.output.parent.mkdir(parents=True)
    _use_for_pytest("echo 1 passed; exit 0", tmp_path, monkeypatch)
    with suites.process_tests(kind, [], every=False) as tests:
        assert tests.wait() == 0
    assert capsys.readouterr().out == "1 passed\n"
    waiting = "trap 'echo interrupted; exit 2' INT\necho began\nwhile :; do sleep 0.1; done"
    _use_for_pytest(waiting, tmp_path, monkeypatch)
    with suites.process_tests(kind, [], every=False) as tests:
        until_blocking(lambda: kind.output.read_text() == "began\n", what="it has begun")
    assert kind.output.read_text() == "began\ninterrupted\n"


def test_ctrl_c_reaches_pytest_from_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal sends it to the whole process group of a run. A second one would end pytest's clean-up."""
    is_first_of_its_session = "read -r _ _ _ _ _ session _ </proc/$$/stat; test $session = $$"
    assert _status(is_first_of_its_session, [], tmp_path, monkeypatch) == 0


def test_a_pytest_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "END_SECONDS", 0.1)
    began = tmp_path / "began"
    _use_for_pytest(f"trap '' INT\ntouch {began}\nexec sleep 600", tmp_path, monkeypatch)
    with suites.installed_tests(Kind("a", Docker()), []) as tests:
        until_blocking(began.exists, what="it has begun")
    assert "pytest does not end, and is killed" in capsys.readouterr().err
    assert tests.wait() == 137


@pytest.fixture
def kind(_folder: None, tmp_path: Path) -> Kind:
    """Provide a cluster whose kind fails, and hangs where it should delete the cluster."""
    failing = tmp_path / "kind"
    failing.write_text("#!/bin/sh\ntest $1 = delete && exec sleep 600\necho ERROR: no nodes >&2; exit 1\n")
    failing.chmod(0o755)
    folder = tmp_path / ".pytest-kind" / "a"
    folder.mkdir(parents=True)
    (folder / "kind-path").write_text(str(failing))
    return Kind("a", Docker())


def test_logs_that_cannot_be_had_hide_no_error(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    kind.export_logs()
    said = capsys.readouterr().err
    assert said == "there are no logs of the nodes and pods: kind export logs failed: ERROR: no nodes\n"


def test_a_kind_that_takes_too_long_is_ended(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = Kind(kind.name, Docker(), timeout=0.1)
    monkeypatch.setattr(impatient, "exists", lambda: True)
    with pytest.raises(ControlPlaneError, match="kind delete cluster took more than 0 s"):
        impatient.remove()
