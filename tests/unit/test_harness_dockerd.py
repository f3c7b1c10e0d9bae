"""A dockerd of our own is started and stopped, and what it has left is taken away.

Programs in a folder stand in for `dockerd`, `iptables` and the others, and files for the kernel's settings:
nothing of this machine is changed.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.docker import Daemon, Docker, DockerError, Machine
from harness.docker.daemon import Pace
from harness.polling import until_blocking

PACE = Pace(start_seconds=60, stop_seconds=60, poll_seconds=0.01)
FORWARDING = "proc/sys/net/ipv4/ip_forward"
INOTIFY = "proc/sys/fs/inotify/max_user_instances"
MOUNTS = "proc/self/mountinfo"
WAITING = "import signal; signal.alarm(120); signal.pause()"  # no failed test leaves it behind
RULE = "-A FORWARD -i docker0 -j DOCKER"
LEFT = f"*filter\n:FORWARD ACCEPT [0:0]\n:DOCKER - [0:0]\n{RULE}\nCOMMIT\n"
NOTHING = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a folder with the files of the kernel, and `bin` with the programs, of which none fails."""
    made = tmp_path / "root"
    for name, text in {FORWARDING: "0\n", INOTIFY: "128\n", MOUNTS: "", "proc/self/status": ""}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    (made / "sys/fs/cgroup").mkdir(parents=True)
    (made / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{made / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for name in ("iptables-save", "ip6tables-save", "iptables", "ip6tables", "ip", "umount", "runc"):
        program(made, name, "exit 0")
    program(made, "dockerd", f"exec {sys.executable} -c '{WAITING}' \"$@\"")
    return made


def program(root: Path, name: str, script: str) -> None:
    (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin" / name).chmod(0o755)


def rules(root: Path, text: str) -> None:
    """Let iptables-save print some rules."""
    (root / "rules").write_text(text)
    program(root, "iptables-save", f"cat {root / 'rules'}")


class Docked(Docker):
    """A client that no daemon answers at first, and afterwards one does, or something is raised."""

    def __init__(self, after: BaseException | None, silent: int) -> None:
        super().__init__()
        self._after = after
        self._silent = silent

    def answers(self) -> bool:
        self._silent -= 1
        if self._silent >= 0:
            return False
        if self._after is not None:
            raise self._after
        return True

    def run(self, *arguments: str, **_: Any) -> subprocess.CompletedProcess[str]:
        """Say that no containers run."""
        return subprocess.CompletedProcess(arguments, 0, stdout="", stderr="")


def daemon_of(
    root: Path,
    *,
    after: BaseException | None = None,
    silent: int = 3,
    kept_gib: float = 1.0,
    pace: Pace = PACE,
) -> Daemon:
    """Return a daemon for a Docker that does not answer a number of times: two before dockerd is started."""
    docker = Docked(after, silent)
    return Daemon(
        root / "docker",
        docker,
        pace,
        machine=Machine(root),
        data=root / "data",
        execution_root=root / "execution",
        kept_gib=kept_gib,
    )


def is_left(root: Path) -> bool:
    """Return whether a dockerd was left behind, or what it has changed; its data may be kept."""
    settings = [(root / name).read_text().strip() for name in (FORWARDING, INOTIFY)]
    return settings != ["0", "128"] or (root / "docker").exists()


def test_it_is_started_and_stopped(root: Path) -> None:
    daemon = daemon_of(root)
    assert daemon.start_if_needed()
    assert daemon.pid is not None
    assert (root / INOTIFY).read_text() == "512"
    (root / FORWARDING).write_text("1\n")
    daemon.stop(force=True)
    assert daemon.pid is None
    assert not is_left(root)


@pytest.mark.parametrize("error", [DockerError("docker info took more than 20 s"), KeyboardInterrupt()])
def test_it_is_stopped_where_its_start_is_given_up(root: Path, error: BaseException) -> None:
    daemon = daemon_of(root, after=error)
    with pytest.raises(type(error)):
        daemon.start_if_needed()
    assert daemon.pid is None
    assert not is_left(root)


def test_one_that_ends_at_once_is_shown_with_its_log(root: Path) -> None:
    program(root, "dockerd", "echo no such storage driver; exit 1")
    with pytest.raises(DockerError, match=r"(?s)dockerd does not start.*no such storage driver"):
        daemon_of(root, silent=1000000).start_if_needed()
    assert not is_left(root)


def test_the_error_of_a_failed_start_is_not_hidden(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(root, "dockerd", f"cp {root / 'left'} {root / 'rules'}; echo no such storage driver; exit 1")
    (root / "left").write_text(LEFT)
    rules(root, NOTHING)
    program(root, "iptables", "echo the lock is taken >&2; exit 4")
    with pytest.raises(DockerError, match="no such storage driver"):
        daemon_of(root, silent=1000000).start_if_needed()
    assert "the lock is taken" in capsys.readouterr().err


def test_it_is_not_stopped_while_another_process_uses_it(root: Path) -> None:
    daemon = daemon_of(root)
    daemon.start_if_needed()
    with daemon_of(root).in_use():
        with pytest.raises(DockerError, match="left running, because another process uses it"):
            daemon.stop()
        assert daemon.pid is not None
    daemon.stop()
    assert not is_left(root)


def test_a_start_waits_until_a_stop_has_taken_everything_away(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the new dockerd would lose its files, or the old one would be taken for one that stays."""
    daemon = daemon_of(root)
    daemon.start_if_needed()
    program(root, "iptables-save", f"while [ ! -e {root / 'go'} ]; do sleep 0.01; done")
    other = daemon_of(root)
    with ThreadPoolExecutor() as threads:
        stopping = threads.submit(daemon.stop, force=True)
        until_blocking(lambda: daemon.pid is None, what="the first one has ended")
        starting = threads.submit(other.start_if_needed)
        until_blocking(lambda: "starts or stops dockerd" in capsys.readouterr().err, what="the start waits")
        (root / "go").touch()
        stopping.result()
        assert starting.result()
    assert other.pid is not None
    other.stop(force=True)
    assert not is_left(root)


def test_a_person_and_a_run_start_it_for_themselves(root: Path) -> None:
    for for_runs in (False, True):
        daemon = daemon_of(root)
        daemon.start_if_needed(for_runs=for_runs)
        assert daemon.is_for_runs == for_runs
        daemon.stop(force=True)


@pytest.mark.parametrize(
    ("kept_gib", "forced", "is_kept"), [(1.0, False, True), (0.0, False, False), (1.0, True, False)]
)
def test_images_are_kept_where_it_ends_in_order(
    root: Path,
    kept_gib: float,
    forced: bool,  # noqa: FBT001
    is_kept: bool,  # noqa: FBT001
) -> None:
    daemon = daemon_of(root, kept_gib=kept_gib)
    daemon.start_if_needed()
    image = root / "data/image"
    image.write_bytes(bytes(4096))
    daemon.stop(force=forced)
    assert image.exists() == is_kept
    assert not is_left(root)


def test_the_data_of_a_killed_one_are_removed(root: Path) -> None:
    """Containers may be left in it, and what was being written."""
    daemon = daemon_of(root)
    daemon.start_if_needed()
    image = root / "data/image"
    image.touch()
    pid = daemon.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until_blocking(lambda: daemon.pid is None, what="it has ended")
    daemon.stop()
    assert not image.exists()
    assert not is_left(root)


def test_the_data_of_one_that_had_to_be_killed_are_removed(root: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.alarm(120)"
    program(root, "dockerd", f"exec {sys.executable} -c '{deaf}; print(flush=True); signal.pause()' \"$@\"")
    pace = replace(PACE, stop_seconds=0.2)
    daemon = daemon_of(root, pace=pace)
    daemon.start_if_needed()
    until_blocking(lambda: daemon.log.read_bytes() != b"", what="it does not hear SIGTERM")
    image = root / "data/image"
    image.touch()
    with suppress(DockerError):  # a busy machine may take longer than this to end it
        daemon.stop()
    until_blocking(lambda: daemon.pid is None, what="it has ended")
    daemon.stop()
    assert not image.exists()
    assert not is_left(root)


def test_rules_that_cannot_be_read_are_not_taken_for_none(root: Path) -> None:
    rules(root, NOTHING)
    daemon = daemon_of(root)
    daemon.start_if_needed()
    program(root, "iptables-save", "echo the lock is taken >&2; exit 4")
    with pytest.raises(DockerError, match="iptables-save: the lock is taken"):
        daemon.stop(force=True)
    rules(root, NOTHING)
    daemon.stop(force=True)
    assert not is_left(root)


def test_what_could_not_be_taken_away_can_be_tried_again(root: Path) -> None:
    rules(root, NOTHING)
    daemon = daemon_of(root)
    daemon.start_if_needed()
    rules(root, LEFT)
    program(root, "iptables", "echo the lock is taken >&2; exit 4")
    with pytest.raises(DockerError, match=r"down` tries again:\n  iptables .*: the lock is taken"):
        daemon.stop(force=True)
    assert daemon.pid is None
    assert daemon.was_started
    program(root, "iptables", f"cp {root / 'nothing'} {root / 'rules'}")
    (root / "nothing").write_text(NOTHING)
    daemon.stop()
    assert not daemon.was_started
    assert not is_left(root)


def test_each_failure_names_its_command(root: Path) -> None:
    before = replace(Machine(root).snapshot(), rules={"iptables": NOTHING, "ip6tables": ""})
    rules(root, LEFT)
    program(root, "iptables", "test $5 != DOCKER || exit 1")
    assert Machine(root).restore(before) == [
        "iptables --wait -t filter -F DOCKER: exit 1",
        "iptables --wait -t filter -X DOCKER: exit 1",
    ]


def test_a_rule_that_is_already_gone_is_no_failure(root: Path) -> None:
    before = replace(Machine(root).snapshot(), rules={"iptables": NOTHING, "ip6tables": ""})
    rules(root, LEFT)
    (root / "nothing").write_text(NOTHING)
    program(root, "iptables", f"cp {root / 'nothing'} {root / 'rules'}; echo no such rule >&2; exit 1")
    assert Machine(root).restore(before) == []


def test_rules_that_cannot_be_seen_are_still_there(root: Path) -> None:
    before = replace(Machine(root).snapshot(), rules={"iptables": NOTHING, "ip6tables": ""})
    rules(root, LEFT)
    program(root, "iptables", f"rm -f {root / 'rules'}; echo the lock is taken >&2; exit 4")
    assert len(Machine(root).restore(before)) == 3


def test_the_data_stays_while_something_is_mounted_below_it(root: Path) -> None:
    daemon = daemon_of(root)
    daemon.start_if_needed()
    mounted = root / "data/overlay"
    mounted.mkdir(parents=True)
    (root / MOUNTS).write_text(f"1 1 0:1 / {mounted} rw\n1 1 0:1 / /elsewhere rw\n")
    program(root, "umount", "echo target is busy >&2; exit 32")
    with pytest.raises(DockerError, match=rf"umount --lazy {mounted}: target is busy$"):
        daemon.stop(force=True)
    assert mounted.exists()
    # It is gone by the time of the second try, whatever the program says.
    program(root, "umount", f": >{root / MOUNTS}; echo not mounted >&2; exit 32")
    daemon.stop()
    assert not is_left(root)


def test_a_removal_that_ends_half_way_is_finished_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = daemon_of(root)
    daemon.start_if_needed()
    layer = root / "data/layer"
    layer.mkdir(parents=True)

    def interrupted(folder: Path, **_: object) -> None:
        if layer.is_relative_to(folder):  # its files are gone, and its folders are not
            for file in filter(Path.is_file, list(folder.iterdir())):
                file.unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            daemon.stop(force=True)
    assert layer.exists()
    assert daemon.was_started
    daemon.stop()
    assert not is_left(root)
