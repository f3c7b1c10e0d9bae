"""Progress without a terminal: lines at intervals, and texts that stay."""

import pytest

from datastorage.cli.progress import display


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
