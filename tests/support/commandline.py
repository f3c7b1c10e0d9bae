"""The command line, run in this process with settings of the test's own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datastorage import cli
from datastorage.settings import setting_names

Command = Callable[..., tuple[object, str, str]]
"""Runs a command; returns its exit code and what it printed on both streams."""


def use_database(monkeypatch: pytest.MonkeyPatch, url: str, absent: Path) -> None:
    """Leave no setting but the URL of the database. ``absent`` is a folder that does not exist."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(absent))
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", url)


def command_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *first: str) -> Command:
    """Return what runs ``datastorage`` with ``first`` and further arguments."""

    def command(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["datastorage", *first, *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return command
