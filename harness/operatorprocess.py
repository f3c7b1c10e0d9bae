"""The operator as a child process that can be started, looked at, stopped, killed and frozen."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from harness.absent import as_in_image
from harness.controlplane.errors import ComponentError
from harness.controlplane.processes import LOG_TAIL_LINES, Deadline, ProcessGroup
from harness.ports import free_port

LOOK_TIMEOUT = 5.0  # seconds for one of many looks: another program may have the port, and never answer
POLL_INTERVAL = 0.05  # seconds between two polls
HTTP_TIMEOUT = 60.0  # seconds; a busy machine and large objects keep the operator from answering for some
COMMAND_TIMEOUT = 60.0  # seconds for a command of the command line
STOP_TIMEOUT = 60.0  # seconds; an operator with the default settings ends itself before
PORT_TAKEN = "address already in use"  # as the operator logs it
MAX_MOVES = 3  # to other ports, in the life of one OperatorProcess
POSTGRES_STOP_TIMEOUT = 10.0  # seconds
_HELD_LEASE = re.compile(r'^datastorage_lease_held\{lease="([^"]+)"\} 1(?:\.0)?$', re.MULTILINE)


class OperatorProcess:
    """`datastorage run` with its own ports, log and, unless a database is named, its own PostgreSQL.

    `kubeconfig` has its identity in the cluster. `database_url` is the service role's; with None it
    runs with --embedded, and the property `database_url` has that database's address. `directory` takes the
    log and the embedded data, which stay for the next start. `settings` are environment variables by
    their full names; without the ports among them it takes free ones.
    With `to_terminal` the log goes to this process's standard error and to no file. `program` is what Python
    runs.

    It can be started again after each end, on the same ports. Leaving its context ends everything.
    """

    def __init__(
        self,
        kubeconfig: Path,
        database_url: str | None,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        *,
        to_terminal: bool = False,
        program: Sequence[str] = ("-m", "datastorage"),
    ) -> None:
        self.kubeconfig = kubeconfig
        self.directory = directory.absolute()
        self.settings = dict(settings or {})
        self.log_path = self.directory / "operator.log"
        self._database_url = database_url
        self._to_terminal = to_terminal
        self._program = program
        self._api_port = int(self.settings.get("DATASTORAGE_API_PORT") or free_port())
        self._metrics_port = int(self.settings.get("DATASTORAGE_METRICS_PORT") or free_port())
        self._moves = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._group: ProcessGroup | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id while it runs, otherwise None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs and before the first start."""
        return None if self._process is None else self._process.poll()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._api_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.metrics_target}/metrics"

    @property
    def metrics_target(self) -> str:
        """Host and port of its metrics, as Prometheus names what it reads."""
        return f"127.0.0.1:{self._metrics_port}"

    @property
    def embedded_directory(self) -> Path:
        """Where the embedded PostgreSQL keeps its data."""
        return self.directory / "postgres"

    @property
    def database_url(self) -> str:
        """The archive's URL for the service role. Raises ComponentError while the embedded one is not up."""
        return self._database_url if self._database_url is not None else self._embedded_url("datastorage")

    @property
    def database_owner_url(self) -> str:
        """The archive's URL for the superuser of the embedded PostgreSQL."""
        return self._embedded_url("postgres")

    def start(self) -> None:
        """Start the operator without waiting until it is ready (see `wait_ready`)."""
        if self.pid is not None:
            raise ComponentError(f"the operator is running already (pid {self.pid})")
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *self._program, "run"]
        if self._database_url is None:
            command += ["--embedded", "--data-dir", str(self.embedded_directory)]
        self._group = self._group or ProcessGroup()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=None if self._to_terminal else log,
                stderr=None if self._to_terminal else subprocess.STDOUT,
                cwd=self.directory,
                env=self._environment(),
                process_group=self._group.id,
            )

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until /ready says so.

        Raises:
            ComponentError: it ended or did not become ready in time; carries its last answer and log lines.
        """
        deadline = Deadline(timeout)
        while True:
            self._move_if_ports_are_taken()
            self.check()
            status, body = self._get(f"{self.api_url}/ready", LOOK_TIMEOUT)
            if status == 200:
                return
            if deadline.passed():
                raise ComponentError(
                    f"the operator is not ready after {timeout:.0f} s: {body}{self.log_tail()}"
                )
            time.sleep(POLL_INTERVAL)

    def wait_listening(self, timeout: float = 60.0) -> None:
        """Wait until its API listens, which is before it stores anything.

        Raises:
            ComponentError: it ended or did not listen in time; carries the end of the log.
        """
        deadline = Deadline(timeout)
        while True:
            self._move_if_ports_are_taken()
            self.check()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._api_port)) == 0:
                    return
            if deadline.passed():
                raise ComponentError(f"the operator does not listen after {timeout:.0f} s{self.log_tail()}")
            time.sleep(POLL_INTERVAL)

    def ready(self) -> bool:
        """Return whether /ready answers 200 now."""
        return self.ask("/ready")[0] == 200

    def ask(self, path: str) -> tuple[int, str]:
        """Return status and body of a path of its API; status 0 and the reason when there is no answer."""
        return self._get(f"{self.api_url}{path}")

    def check(self) -> None:
        """Raise ComponentError with the end of the log if it has ended."""
        if self.exit_code is not None:
            raise ComponentError(f"the operator ended with status {self.exit_code}{self.log_tail()}")

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to stop (SIGTERM) and return its exit code.

        Raises:
            ComponentError: it had not stopped after `timeout` seconds; it is killed then.
        """
        if self._process is None:
            raise ComponentError("the operator was never started")
        self.resume()
        if self.pid is not None:
            self._process.terminate()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ComponentError(
                f"the operator had not stopped after {timeout:.0f} s{self.log_tail()}"
            ) from error

    def kill(self) -> None:
        """End it without warning (SIGKILL). An embedded PostgreSQL keeps running, as a real one would."""
        if self._process is not None and self.pid is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP); when this returns it does nothing more until `resume`."""
        process = psutil.Process(self._running_pid())
        process.suspend()
        deadline = Deadline(STOP_TIMEOUT)
        while process.status() != psutil.STATUS_STOPPED:
            if deadline.passed():
                raise ComponentError("the operator cannot be frozen")
            time.sleep(POLL_INTERVAL)

    def resume(self) -> None:
        """Let it continue after `pause`; has no effect if it runs."""
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, its embedded PostgreSQL and all other processes that it has started."""
        try:
            if self.pid is not None:
                self.terminate()
        finally:
            if self._group is not None:
                self._group.kill()
                self._group = None
            self._stop_embedded()

    def metrics(self) -> str:
        """Return its metrics in the Prometheus text format. Raises ComponentError if it gives none."""
        status, body = self._get(self.metrics_url)
        if status != 200:
            raise ComponentError(f"no metrics from the operator: {body}{self.log_tail()}")
        return body

    def metric(self, line: str) -> float:
        """Return the value of the metric with exactly this name and labels, or 0 if it is absent."""
        for sample in self.metrics().splitlines():
            name, _, value = sample.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def held_leases(self) -> set[str]:
        """Return the names of the Leases that it holds; none if it does not run."""
        return set(_HELD_LEASE.findall(self.metrics())) if self.pid is not None else set()

    def datastorage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line with the operator's settings, against its database.

        Raises ComponentError if the command fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "datastorage", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT,
            cwd=self.directory,
            env=self._environment() | {"DATASTORAGE_DATABASE_URL": self.database_url},
        )
        if done.returncode != 0:
            raise ComponentError(f"datastorage {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used since it was started."""
        times = psutil.Process(self._running_pid()).cpu_times()
        return float(times.user + times.system)

    def peak_memory_mib(self) -> float:
        """Return the most memory that it ever held, in MiB, by the kernel's high-water mark."""
        for line in Path(f"/proc/{self._running_pid()}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise ComponentError("no VmHWM in /proc/PID/status")

    def log(self) -> str:
        """Return all that it has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the last lines of the log, introduced by its path, to be put after a message."""
        if self._to_terminal:
            return ""
        return f"; the end of {self.log_path}:\n" + "\n".join(self.log().splitlines()[-lines:])

    def _running_pid(self) -> int:
        if self.pid is None:
            raise ComponentError(f"the operator is not running{self.log_tail()}")
        return self.pid

    def _move_if_ports_are_taken(self) -> None:
        # Between the choice of a free port and its use another program may have taken it.
        if (
            self.exit_code is None
            or self.log().lower().count(PORT_TAKEN) != self._moves + 1
            or self._moves >= MAX_MOVES
        ):
            return
        self._moves += 1
        self._api_port, self._metrics_port = free_port(), free_port()
        self.start()

    def _environment(self) -> dict[str, str]:
        # The caller's settings must not affect the test, and a proxy cannot reach 127.0.0.1.
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("DATASTORAGE_") and not name.lower().endswith("_proxy")
        }
        own |= {
            "KUBECONFIG": str(self.kubeconfig),
            "DATASTORAGE_API_PORT": str(self._api_port),
            "DATASTORAGE_METRICS_PORT": str(self._metrics_port),
            "DATASTORAGE_LISTEN_ADDRESS": "127.0.0.1",
            "DATASTORAGE_SECRETS_DIR": str(self.directory / "secrets"),
        }
        # A test that names the directory puts the URL there.
        if self._database_url is not None and "DATASTORAGE_SECRETS_DIR" not in self.settings:
            own["DATASTORAGE_DATABASE_URL"] = self._database_url
        return as_in_image(own | self.settings)

    def _embedded_url(self, role: str) -> str:
        lines = self._postmaster()
        if not lines:
            raise ComponentError(f"no embedded PostgreSQL is up in {self.embedded_directory}")
        port, socket_directory = lines[3].strip(), lines[4].strip()
        return f"postgresql://{role}:@/postgres?host={socket_directory}&port={port}"

    def _postmaster(self) -> list[str]:
        """Return the lines of postmaster.pid, or none if it does not say that the server is ready."""
        try:
            lines = (self.embedded_directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        return lines if len(lines) > 7 and lines[7].strip() == "ready" else []

    def _stop_embedded(self) -> None:
        """Stop a PostgreSQL that a killed operator has left behind."""
        if self._database_url is not None or not (lines := self._postmaster()):
            return
        try:
            postmaster = psutil.Process(int(lines[0]))
            if str(self.embedded_directory.resolve()) in postmaster.cmdline():
                postmaster.send_signal(signal.SIGINT)  # its "fast" shutdown
                postmaster.wait(POSTGRES_STOP_TIMEOUT)
        except psutil.NoSuchProcess:
            pass

    @staticmethod
    def _get(url: str, timeout: float = HTTP_TIMEOUT) -> tuple[int, str]:
        """Return status and body; status 0 and the reason when there is no answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
