"""Commands that the harness runs, some of them beside other work."""

import os
from pathlib import Path

import pytest

from harness.controlplane.errors import BuildError
from harness.controlplane.progress import Running, run_reporting
from harness.polling import until_blocking


def test_what_a_failed_command_printed_is_in_the_error() -> None:
    with pytest.raises(BuildError, match=r"trying failed \(exit 3\):\nno such wheel"):
        run_reporting(["sh", "-c", "echo no such wheel >&2; exit 3"], "trying")


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(BuildError, match="cannot run /nonexistent/make: No such file"):
        Running(["/nonexistent/make"], "trying")


def test_a_command_has_ended_with_its_block(tmp_path: Path) -> None:
    """Whoever leaves early leaves nothing behind."""
    file = tmp_path / "pid"
    with Running(["sh", "-c", 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec sleep 300', str(file)], "sleeping"):
        until_blocking(file.exists, what="the command runs")
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)
