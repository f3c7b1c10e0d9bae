"""The command `top`: the view on a terminal, one look in a pipe, and what it refuses."""

import asyncio
import json
import os
import pty
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from datastorage.metrics import INTAKE_DEPTH, WRITE_TOTAL, WriteStatus
from datastorage.records.record import Table
from tests.support.commandline import Command, command_of
from tests.support.metricspages import counted, page_text, shown

_ALTERNATE_SCREEN: Final = "\x1b[?1049h"
_OWN_SCREEN: Final = "\x1b[?1049l"


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
    assert "127.0.0.1:1 does not answer: Connection refused\n" in printed
    assert not any(line.endswith(" ") for line in printed.splitlines())
    code, printed, _ = top("--once", "--interval", "0.5", "-o", "json", *urls)
    look = json.loads(printed)
    assert (code, look["replicas"][0]["trouble"], look["rejected"]) == (1, "Connection refused", None)


async def _shown_until(terminal: int, *words: str) -> str:
    """Return what is written to a terminal until all of the words are there."""
    text = b""
    while not all(word.encode() in text for word in words):
        text += await asyncio.to_thread(os.read, terminal, 65_536)
    return text.decode()


def _rest(terminal: int) -> str:
    text = b""
    with suppress(OSError):  # Linux reports the end as an error
        while data := os.read(terminal, 65_536):
            text += data
    return text.decode()


async def test_the_view_follows_the_replicas_and_leaves_the_last_look(tmp_path: Path) -> None:
    stored = iter(range(0, 10_000, 5))

    def healthy() -> web.Response:
        written = counted(WRITE_TOTAL, next(stored), table=Table.AUDIT_RECORDS, status=WriteStatus.SUCCESS)
        return web.Response(text=page_text(written, counted(INTAKE_DEPTH, 4321)))

    async with shown(healthy) as url:
        terminal, end = pty.openpty()
        termios.tcsetwinsize(end, (24, 80))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "datastorage", "top", "--interval", "0.5", "--metrics-url", str(url),
            stdin=end, stdout=end, stderr=end,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm"},
        )  # fmt: skip
        os.close(end)
        async with asyncio.timeout(60):
            live = await _shown_until(terminal, "4,321", "rates over")
            process.send_signal(signal.SIGINT)
            rest, code = await asyncio.gather(asyncio.to_thread(_rest, terminal), process.wait())
    os.close(terminal)
    assert code == 0
    assert _ALTERNATE_SCREEN in live
    last = rest.partition(_OWN_SCREEN)[2]
    assert "4,321" in last
    assert "replicas answering: 1 of 1" in last
    assert "Traceback" not in last
