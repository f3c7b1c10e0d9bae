"""Progress: bars on a terminal, otherwise lines at intervals; and texts that stay."""

import re

import pytest

from datastorage.cli.progress import Follower, display


class Clock:
    """A clock that the test moves; in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_ten_seconds_and_one_at_the_end_of_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with display(clock) as shown:
        for second in range(26):
            clock.now = 1000.0 + second
            shown.show("first", 100 * second, 10_000)
        shown.show("first", 10_000, 10_000)
        for second in range(26, 45):
            clock.now = 1000.0 + second
            shown.show("first", 10_000, 10_000)  # as it had come: said already
            shown.show("second", second - 25, None)
    assert capsys.readouterr().err.splitlines() == [
        "first: 1,000 of 10,000, 100/s, 90 s left",
        "first: 2,000 of 10,000, 100/s, 80 s left",
        "first: 10,000 of 10,000",
        "second: 11",
        "second: 19",
    ]


def test_a_stage_with_nothing_to_do_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    with display(Clock()) as shown:
        shown.show("first", 0, 0)
        shown.show("second", 0, 0)
        shown.say("waiting\x1b[31m for the embedder")
    assert capsys.readouterr().err == "waiting [31m for the embedder\n"


def test_a_terminal_has_a_bar_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # takes standard error for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with display() as shown:
        shown.show("first", 10_000, 10_000)
        shown.show("second", 7, None)
        shown.say("waiting [bold]for\x1b[31m it")
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "waiting [bold]for [31m it\n" in printed
    first, second = printed.splitlines()[-2:]
    assert re.match(r"first +━+ 10,000 of 10,000 ", first)
    assert re.match(r"second +━+ 7 ", second)


def test_what_work_waits_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    away: dict[str, str] = {}
    with display(Clock()) as shown:
        follower = Follower(shown, list, lambda: away)
        follower.look()
        away["PostgreSQL"] = "refused"
        follower.look()
        follower.look()
        away.clear()
        follower.look()
        follower.look()
    assert capsys.readouterr().err.splitlines() == [
        "waiting for PostgreSQL: refused",
        "PostgreSQL serves again",
    ]
