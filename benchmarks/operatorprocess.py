"""The operator as users run it: a process of its own, under its ServiceAccount, measured from outside."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Final, Self

import aiohttp

from benchmarks.errors import BenchmarkError
from benchmarks.postgres import PROGRAM
from e2e.controlplane.controlplane import free_port

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
# Fields of /proc/PID/stat after the parenthesised name (proc(5)): utime is the 14th of all.
_USER_TIME: Final = 11
_SYSTEM_TIME: Final = 12


class OperatorProcess:
    """``datastorage run``; a context manager that returns when the process listens, before it works.

    Settings of the caller's environment reach it, so that any of them can be measured.
    """

    def __init__(self, kubeconfig: Path, database_url: str, log: Path, *, ttl_seconds: int) -> None:
        self._log = log
        self._port = free_port()
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "DATASTORAGE_DATABASE_URL": database_url,
            "DATASTORAGE_API_PORT": str(self._port),
            "DATASTORAGE_METRICS_PORT": str(free_port()),
            "DATASTORAGE_LISTEN_ADDRESS": "127.0.0.1",
            "DATASTORAGE_TTL_SECONDS_AFTER_STORED": str(ttl_seconds),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._cpu_at_start = 0.0
        self.started = 0.0
        """When the process was started (Unix seconds)."""

    async def __aenter__(self) -> Self:
        self.started = time.time()
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "run", env=self._environment, stdout=log, stderr=log
            )
        try:
            await self._until_listening()
        except BaseException:
            await self._stop()
            raise
        # What the imports cost is no matter of the records.
        self._cpu_at_start = self._cpu_seconds()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = await self._stop()
        if code != 0 and kind is None:
            raise BenchmarkError(f"the operator exited with {code}{self._tail()}")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it has used since it began to listen."""
        return self._cpu_seconds() - self._cpu_at_start

    @property
    def peak_rss_mib(self) -> float:
        """The most memory that it ever held, in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise BenchmarkError("no VmHWM in /proc/PID/status")

    async def until_ready(self) -> None:
        """Wait until its readiness check succeeds: PostgreSQL serves and the watches are open."""
        deadline = time.monotonic() + _START_SECONDS
        async with aiohttp.ClientSession() as session:
            while True:
                self.check()
                async with session.get(f"http://127.0.0.1:{self._port}/ready") as response:
                    if response.ok:
                        return
                    problem = await response.text()
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"the operator is not ready after {_START_SECONDS:.0f} s: {problem}")
                await asyncio.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise BenchmarkError when the process has ended."""
        if self._running.returncode is not None:
            raise BenchmarkError(f"the operator exited with {self._running.returncode}{self._tail()}")

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise BenchmarkError("the operator is used outside of its context")
        return self._process

    def _cpu_seconds(self) -> float:
        # The name in parentheses may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS_PER_SECOND

    async def _until_listening(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self.check()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the operator does not listen after {_START_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def _stop(self) -> int:
        process = self._running
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            return await process.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-10:]
        return "; the end of its log:\n" + "\n".join(lines)
