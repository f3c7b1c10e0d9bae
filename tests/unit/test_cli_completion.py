"""The name under which people run the program, and what shells and kubectl complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datastorage.cli.app import OVERVIEW
from datastorage.cli.versiontext import version_text

_PROGRAMS = Path(sys.executable).parent
_BASH = """
source <(datastorage completion bash)
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
eval "$(complete -p datastorage | sed 's/.*-F \\([^ ]*\\).*/\\1/') datastorage"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
    )


def _completed(*words: str) -> list[str]:
    return _run(_PROGRAMS / "kubectl_complete-datastorage", *words).stdout.splitlines()


def test_the_version_is_an_option_too() -> None:
    assert _run(_PROGRAMS / "datastorage", "--version").stdout == version_text()


@pytest.mark.parametrize("command", ["search", "store", "rejected list"])
def test_help_names_the_program_that_was_run(command: str) -> None:
    as_plugin = _run(_PROGRAMS / "kubectl-datastorage", *command.split(), "--help").stdout
    assert f"Usage: kubectl datastorage {command}" in as_plugin
    assert f" kubectl datastorage {command} " in as_plugin.partition("Examples:")[2]
    alone = _run(_PROGRAMS / "datastorage", *command.split(), "--help").stdout
    assert "kubectl datastorage" not in alone
    assert as_plugin.replace("kubectl datastorage", "datastorage").split() == alone.split()


def test_kubectl_gets_commands_options_and_values() -> None:
    commands = [name for name, listing in OVERVIEW.items() if not listing.is_hidden]
    assert _completed("") == [*commands, ":4"]
    assert _completed("sea") == ["search", ":4"]
    assert _completed("list", "--ki") == ["--kind", ":4"]
    assert _completed("list", "--kind", "") == ["AuditRecord", "ActionTrace", ":4"]
    assert _completed("search", "two words", "--mode", "v") == ["vector", ":4"]
    assert _completed("rejected", "re") == ["retry", ":4"]
    assert _completed("store", "-f", "") == [":0"], "names of files"


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="this machine has no bash")
def test_bash_completes_what_it_has_sourced() -> None:
    def completed(*words: str) -> list[str]:
        return _run("/bin/bash", "-c", _BASH, "-", "datastorage", *words).stdout.split()

    assert completed("timel") == ["timeline"]
    assert completed("get", "--kind", "A") == ["AuditRecord", "ActionTrace"]
    assert "--token-file" in completed("get", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    printed = _run(_PROGRAMS / "datastorage", "completion", shell).stdout
    assert f"complete_{shell}" in printed
    assert "datastorage" in printed
