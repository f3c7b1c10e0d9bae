"""The parts of ``e2e/installed`` that need no cluster with nodes."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from e2e.installed.conftest import FOLDER, pytest_ignore_collect
from e2e.installed.counted import longest_gap
from e2e.installed.portforward import PortForward
from e2e.installed.reads import Counts, Plan, Reader
from e2e.installed.serverclock import read_clock
from harness import REPOSITORY
from harness.archive import fetch
from harness.controlplane import Cluster, ControlPlaneError
from harness.polling import eventually, until_blocking
from harness.postgres import PostgresServer

TOKEN = "the-token"


def test_the_tests_of_an_installation_are_left_out_of_the_others(pytestconfig: pytest.Config) -> None:
    assert pytest_ignore_collect(FOLDER / "test_use.py", pytestconfig)
    assert not pytest_ignore_collect(Path(__file__), pytestconfig)


def test_without_a_cluster_they_say_what_they_need() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", str(FOLDER)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "e2e/installed needs a cluster with nodes: name one with --kubeconfig and --context" in done.stderr


def test_the_longest_gap() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert longest_gap([start + timedelta(seconds=each) for each in (9.0, 0.0, 1.0, 1.5)]) == 7.5
    assert longest_gap([start]) == 0.0


async def test_the_clock_of_a_server_is_never_behind_what_it_showed(postgres: PostgresServer) -> None:
    """So a row is taken for a late one only if its transaction has begun after that moment."""
    earlier = time.monotonic()
    [before] = await fetch(postgres.owner_url, "SELECT clock_timestamp() AS shown")
    between = time.monotonic()
    clock = await read_clock(postgres.owner_url)
    [after] = await fetch(postgres.owner_url, "SELECT clock_timestamp() AS shown")
    assert before["shown"] <= clock.latest(between)
    assert after["shown"] <= clock.latest(time.monotonic())
    assert clock.latest(earlier) < after["shown"]


def test_a_forwarded_port_works_however_many_connections_there_are(tmp_path: Path) -> None:
    """A line is printed for each of them, and for each that fails."""
    lines = "head -c 300000 /dev/zero | tr '\\0' '\\n'"
    with forward(tmp_path, f"echo Forwarding from x; {lines}; {lines} >&2; touch served; exec sleep 600"):
        until_blocking((tmp_path / "served").exists, what="kubectl goes on")


def test_a_port_that_cannot_be_forwarded_is_an_error(tmp_path: Path) -> None:
    refused = forward(tmp_path, "echo no such pod >&2; exit 1")
    with pytest.raises(ControlPlaneError, match=r"^kubectl port-forward ended: no such pod$"), refused:
        pass


def forward(folder: Path, command: str) -> PortForward:
    """Return a forwarded port with a shell command in place of kubectl."""
    kubectl = folder / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncd {folder}\n{command}\n")
    kubectl.chmod(0o755)
    return PortForward(Cluster(folder / "kubeconfig", kubectl, folder), "default", "pod/x", 5432)


async def test_reads_that_are_answered(tmp_path: Path) -> None:
    counts, paths = await read(tmp_path, [])
    assert (counts.failed, counts.unanswered, counts.examples) == (0, 0, [])
    assert set(paths) == {"/a", "/b"}
    assert counts.sent == len(paths) >= 20


async def test_a_failed_read_counts_without_patience(tmp_path: Path) -> None:
    counts, paths = await read(tmp_path, [503, 404])
    assert (counts.failed, counts.unanswered) == (2, 2)
    assert counts.sent == len(paths)
    assert [each.partition(": ")[2] for each in counts.examples] == ["503: b''", "404: b''"]


async def test_with_patience_it_is_tried_again(tmp_path: Path) -> None:
    counts, paths = await read(tmp_path, [503], patience_seconds=30)
    assert (counts.failed, counts.unanswered) == (1, 0)
    assert counts.sent == len(paths) - 1
    assert counts.slowest_seconds > 0


async def test_reads_count_when_enough_in_a_row_were_answered(tmp_path: Path) -> None:
    counts, paths = await read(tmp_path, [200, 503, 200, 200, 503], steady=3)
    assert (counts.failed, counts.unanswered) == (0, 0)
    assert 0 < counts.sent <= len(paths) - 8


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    reader, stop = Reader(plan(tmp_path, ["http://127.0.0.1:1/"])), asyncio.Event()
    reading = asyncio.create_task(reader.run(stop))
    await eventually(lambda: reader.counts.unanswered >= 3)
    stop.set()
    await reading
    assert reader.counts.failed == reader.counts.sent
    assert "ClientConnectorError" in reader.counts.examples[0]


def plan(folder: Path, urls: Sequence[str], *, patience_seconds: float = 0.0, steady: int = 0) -> Plan:
    token = str(folder / "token")
    return Plan(
        urls, token, per_second=200, connect_seconds=10, patience_seconds=patience_seconds, steady=steady
    )


async def read(
    folder: Path, refusals: list[int], *, patience_seconds: float = 0.0, steady: int = 0
) -> tuple[Counts, list[str]]:
    """Read from a server which first refuses with these statuses; return the counts and the paths."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        paths.append(request.path)
        return web.Response(status=refusals.pop(0) if refusals else 200)

    (folder / "token").write_text(f"{TOKEN}\n")
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        urls = [str(server.make_url(path)) for path in ("/a", "/b")]
        reader, stop = (
            Reader(plan(folder, urls, patience_seconds=patience_seconds, steady=steady)),
            asyncio.Event(),
        )
        reading = asyncio.create_task(reader.run(stop))
        await eventually(lambda: len(paths) >= 20)
        stop.set()
        await reading
    return reader.counts, paths
