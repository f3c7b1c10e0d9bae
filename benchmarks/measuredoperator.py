"""The operator as users run it: a process of its own, under its ServiceAccount, measured from outside."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from benchmarks.errors import BenchmarkError
from harness.operatorprocess import OperatorProcess

_PREFIX: Final = "DATASTORAGE_"


class MeasuredOperator:
    """``datastorage run``; a context manager that returns when the process listens, before it works.

    Settings of the caller's environment reach it, so that any of them can be measured.
    """

    def __init__(
        self,
        kubeconfig: Path,
        database_url: str,
        directory: Path,
        settings: Mapping[str, object],
        program: Sequence[str],
    ) -> None:
        """Take settings by their names without the prefix, and what Python runs."""
        callers = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
        own = {f"{_PREFIX}{name}": str(value) for name, value in settings.items()}
        self._process = OperatorProcess(kubeconfig, database_url, directory, callers | own, program=program)
        self._cpu_at_start = 0.0
        self.started = 0.0
        """When the process was started (Unix seconds)."""

    async def __aenter__(self) -> Self:
        self.started = time.time()
        self._process.start()
        try:
            await asyncio.to_thread(self._process.wait_listening)
        except BaseException:
            await asyncio.to_thread(self._process.close)
            raise
        # CPU time that was spent on imports is not counted.
        self._cpu_at_start = self._process.cpu_seconds()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            code = await asyncio.to_thread(self._process.terminate)
        finally:
            await asyncio.to_thread(self._process.close)
        if code != 0 and kind is None:
            raise BenchmarkError(f"the operator exited with {code}{self._process.log_tail()}")

    @property
    def pid(self) -> int | None:
        """The process id, or None when it has ended."""
        return self._process.pid

    @property
    def api_url(self) -> str:
        """The address of its REST API."""
        return self._process.api_url

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it has used since it began to listen."""
        return self._process.cpu_seconds() - self._cpu_at_start

    @property
    def peak_rss_mib(self) -> float:
        """The most memory that it ever held, in MiB."""
        return self._process.peak_memory_mib()

    async def until_ready(self) -> None:
        """Wait until its readiness check succeeds: PostgreSQL serves and the watches are open."""
        await asyncio.to_thread(self._process.wait_ready)

    @property
    def held_leases(self) -> set[str]:
        """The names of the Leases that it holds."""
        return self._process.held_leases()

    @property
    def committed(self) -> int:
        """How many records its committed batches had, with those that were stored already."""
        return int(self._process.metric("datastorage_batch_size_sum"))

    def pause(self) -> None:
        """Freeze the process."""
        self._process.pause()

    def resume(self) -> None:
        """Let the process go on."""
        self._process.resume()

    def check(self) -> None:
        """Raise ComponentError when the process has ended."""
        self._process.check()
