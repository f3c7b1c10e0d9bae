"""The command `top`: the view on a terminal, one look in a pipe, and what it refuses."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from aiohttp import web

from datastorage.metrics import INTAKE_DEPTH, WRITE_TOTAL, WriteStatus
from datastorage.records.record import Table
from harness.terminal import ALTERNATE_SCREEN, OWN_SCREEN, opened_terminal
from tests.support.commandline import Command, command_of
from tests.support.metricspages import counted, page_text, shown


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.delenv("DATASTORAGE_DATABASE_URL", raising=False)
    return command_of(monkeypatch, capsys, "top")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the output is no terminal: use --once"),
        (("-o", "json"), "-o json needs --once"),
        (("--once", "--context", "x"), "--context needs -n"),
        (("--once", "-n", "x", "--metrics-url", "http://h"), "--metrics-url can't be combined with -n"),
        (("--once", "--metrics-url", "nothing"), "--metrics-url must be the URL"),
        (("--once", *("--metrics-url", "http://h") * 33), "--metrics-url can be given 32 times at most"),
    ],
)
def test_what_makes_no_sense_is_refused(top: Command, arguments: tuple[str, ...], message: str) -> None:
    code, printed, error = top(*arguments)
    assert (code, printed) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_a_replica_that_does_not_answer_is_shown_and_the_exit_code_says_that_none_does(top: Command) -> None:
    urls = ("--metrics-url", "http://127.0.0.1:1")
    code, printed, error = top("--once", "--interval", "0.5", *urls)
    assert (code, error) == (1, "")
    assert "127.0.0.1:1 gives no metrics: Connection refused\n" in printed
    assert not any(line.endswith(" ") for line in printed.splitlines())
    code, printed, _ = top("--once", "--interval", "0.5", "-o", "json", *urls)
    look = json.loads(printed)
    assert (code, look["replicas"][0]["trouble"], look["rejected"]) == (1, "Connection refused", None)


async def test_the_view_follows_the_replicas_and_leaves_the_last_look(tmp_path: Path) -> None:
    stored = iter(range(0, 10_000, 5))

    def healthy() -> web.Response:
        written = counted(WRITE_TOTAL, next(stored), table=Table.AUDIT_RECORDS, status=WriteStatus.SUCCESS)
        return web.Response(text=page_text(written, counted(INTAKE_DEPTH, 4321)))

    async with shown(healthy) as url:
        with opened_terminal(lines=24, columns=80) as terminal:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "datastorage", "top", "--interval", "0.5", "--metrics-url", str(url),
                stdin=terminal.end, stdout=terminal.end, stderr=terminal.end,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm"},
            )  # fmt: skip
            terminal.close_end()
            async with asyncio.timeout(60):
                live = await terminal.shown_until("4,321", "rates over")
                process.send_signal(signal.SIGINT)
                rest, code = await asyncio.gather(terminal.rest(), process.wait())
    assert code == 0
    assert ALTERNATE_SCREEN in live
    last = rest.partition(OWN_SCREEN)[2]
    assert "4,321" in last
    assert "replicas answering: 1 of 1" in last
    assert "Traceback" not in last
