"""A dockerd of our own, for machines where none runs."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.cache import cache_directory
from harness.controlplane.processes import Deadline
from harness.controlplane.progress import say
from harness.docker.client import Docker
from harness.docker.errors import DockerError
from harness.docker.machine import Machine, Snapshot

RUNTIME = Path(__file__).resolve().parent / "runc-without-sys-resource"
LOG_TAIL_LINES = 15
EXECUTION_ROOT = Path("/run/kubernaut-datastorage-docker")
DEFAULT_HOST = "unix:///var/run/docker.sock"
KEPT_GIB = 15.0
"""Images and the layers of builds are kept for the next start until they are larger than this."""
PROGRAMS = {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2", "runc": "runc"}


@dataclass(frozen=True)
class Pace:
    """How long dockerd is waited for."""

    start_seconds: float = 60.0  # it answers after one or two
    stop_seconds: float = 60.0  # its containers get 15 s to end
    poll_seconds: float = 0.2


class Daemon:
    """The dockerd that was started here, found again by its files in a folder.

    Processes may share it. One at a time starts or stops it, and none stops it while another one uses it.
    """

    def __init__(
        self,
        directory: Path | None = None,
        docker: Docker | None = None,
        pace: Pace = Pace(),
        *,
        machine: Machine | None = None,
        data: Path | None = None,
        execution_root: Path = EXECUTION_ROOT,
        kept_gib: float = KEPT_GIB,
    ) -> None:
        self._directory = directory or _default_directory()
        self._docker = docker or Docker()
        self._pace = pace
        self._machine = machine or Machine()
        self._data = data or cache_directory("docker")
        self._execution_root = execution_root
        self._kept_gib = kept_gib

    @property
    def log(self) -> Path:
        return self._directory / "dockerd.log"

    @property
    def was_started(self) -> bool:
        """Whether it was started here, and has not yet been stopped with all that it has left."""
        return self._snapshot.exists()

    @property
    def pid(self) -> int | None:
        """The process id, or None if it does not run."""
        try:
            pid = int((self._directory / "dockerd.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            return None
        # The number may be another process's by now.
        return pid if self._own_pid in command else None

    def missing_packages(self) -> list[str]:
        """Return the Debian packages without which no Docker answers and none can be started."""
        if self._docker.answers():
            return []
        return [package for program, package in PROGRAMS.items() if not shutil.which(program)]

    @property
    def is_for_runs(self) -> bool:
        """Whether a test run has started it, so that the last one stops it; otherwise a person has."""
        return self._for_runs.exists()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use it in the block: unless it is forced, no other process stops it meanwhile."""
        with self._users.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def start_if_needed(self, *, for_runs: bool = False) -> bool:
        """Start dockerd unless a Docker answers; return whether it was started.

        Raises:
            DockerError: it can't be started: the message says what is missing.
        """
        with self._alone():
            # Only now: a dockerd that another process was just stopping would have answered before.
            if self._docker.answers():
                return False
            self._check_needs()
            self._stop(force=True)  # what a killed one has left
            self._start_anew()
            if for_runs:
                self._for_runs.touch()
            return True

    def _start_anew(self) -> None:
        for folder in (self._directory, self._data):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._machine.snapshot().write(self._snapshot)
        try:
            self._machine.allow_inotify_instances()
            self._start()
        except BaseException:
            self._stop_unfinished()
            raise

    def stop(self, *, force: bool = False) -> None:
        """Stop it and take away what it has left on the machine; nothing happens if it was not started here.

        Its data, which is images and the layers of builds, stay in the cache folder if it ends in order: the
        next start has them. They are removed if it is forced, was killed, or has gathered too many.

        Raises:
            DockerError: another process uses it or containers run in it (unless forced), it does not end, or
                it has left something that can't be taken away. Then its folder stays, so that this can be
                tried again.
        """
        with self._alone():
            self._stop(force=force)

    def _stop(self, *, force: bool) -> None:
        if not self.was_started:
            return
        if not force and self._is_used():
            raise DockerError("dockerd was left running, because another process uses it")
        pid = self.pid
        in_order = pid is not None and not force
        if in_order:
            running = self._docker.run("ps", "--format={{.Names}}").stdout.split()
            if running:
                raise DockerError(
                    f"dockerd was left running, because containers run in it: {', '.join(running)};"
                    " remove them, or stop it with `python -m harness.docker down --force`"
                )
            for what in (("container",), ("volume", "--all"), ("network",)):
                self._docker.run(what[0], "prune", "--force", *what[1:], check=False)
        if pid is not None:
            in_order &= self._end(pid)
        failures: list[str] = []
        for folder in (self._data, self._execution_root):
            failures += self._machine.unmount_below(folder)
        failures += self._machine.restore(Snapshot.read(self._snapshot))
        if failures:
            listed = "".join(f"\n  {failure}" for failure in failures)
            raise DockerError(
                "dockerd is stopped, and some of what it has left could not be taken away;"
                f" `python -m harness.docker down` tries again:{listed}"
            )
        shutil.rmtree(self._execution_root, ignore_errors=True)
        # The snapshot goes last, because `was_started` looks for it: a removal that ends half way is then
        # finished by the next run, and no dockerd is started on data of which a part is missing.
        if self._data.exists() and not (in_order and _gib(self._data) <= self._kept_gib):
            shutil.rmtree(self._data)
        shutil.rmtree(self._directory)

    def _start(self) -> None:
        say("No Docker answers: starting dockerd")
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        (self._directory / "dockerd.pid").write_text(str(process.pid))
        deadline = Deadline(self._pace.start_seconds)
        while not self._docker.answers():
            if process.poll() is not None or deadline.passed():
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
                raise DockerError(f"dockerd does not start; the end of its log:\n{tail}")
            time.sleep(self._pace.poll_seconds)

    def _stop_unfinished(self) -> None:
        try:
            self._stop(force=True)
        except DockerError as error:  # the reason why it did not start matters more
            say(str(error))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process starts or stops it, and let none do so in the block."""
        with self._beside("lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another process starts or stops dockerd; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _is_used(self) -> bool:
        with self._users.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def _users(self) -> Path:
        return self._beside("users")

    def _beside(self, suffix: str) -> Path:
        """Return a file beside the folder, which is removed while processes wait for this file's lock."""
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        return self._directory.with_name(f"{self._directory.name}.{suffix}")

    @property
    def _for_runs(self) -> Path:
        return self._directory / "for-runs"

    @property
    def _own_pid(self) -> str:
        """The option by which the process is recognised."""
        return f"--pidfile={self._directory / 'own.pid'}"

    @property
    def _snapshot(self) -> Path:
        return self._directory / "before.json"

    def _command(self) -> list[str]:
        command = [
            "dockerd",
            f"--host={_host()}",
            f"--data-root={self._data}",
            f"--exec-root={self._execution_root}",
            self._own_pid,
        ]
        if self._machine.lacks_sys_resource():
            command += [f"--add-runtime=restricted={RUNTIME}", "--default-runtime=restricted"]
        return command

    def _check_needs(self) -> None:
        if not _host().startswith("unix://"):
            raise DockerError(f"no Docker answers at {_host()}, which DOCKER_HOST names")
        if os.geteuid() != 0:
            raise DockerError("no Docker answers, and only root can start dockerd: start Docker, or be root")
        missing = self.missing_packages()
        if missing:
            raise DockerError(
                "no Docker answers, and programs to start one are missing: start Docker, or"
                f" apt-get install {' '.join(missing)}"
            )

    def _end(self, pid: int) -> bool:
        """End the process; return whether it has ended by itself when it was asked to."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return False
            deadline = Deadline(self._pace.stop_seconds)
            while not deadline.passed():
                if self.pid is None:
                    return number is signal.SIGTERM
                time.sleep(self._pace.poll_seconds)
        raise DockerError(f"dockerd (process {pid}) does not end; its log is {self.log}")


def _host() -> str:
    """Return the address at which `docker` looks for a daemon; it takes an empty DOCKER_HOST for none."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def _gib(folder: Path) -> float:
    """Return the size on the disk of all files below a folder, in GiB."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_blocks * 512 for file in files) / 2**30


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state).absolute() / "kubernaut-datastorage" / "docker"
