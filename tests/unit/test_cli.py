"""The command line: what each command prints, and one line for each foreseen error."""

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datastorage import __version__, cli
from datastorage.api.document import document
from datastorage.cli import waiting
from datastorage.cli.app import OVERVIEW
from datastorage.cli.settingstable import settings_table
from datastorage.cli.versiontext import version_text
from datastorage.errors import TransientError
from datastorage.settings import setting_names

Command = Callable[..., tuple[object, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings and secrets of the machine."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(tmp_path / "absent"))
    # It would replace pytest's log handlers for the tests that follow.
    monkeypatch.setattr("datastorage.cli.operator.configure_logging", lambda *_: None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; return its exit code and what it printed on both streams."""

    def command(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["datastorage", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return command


@pytest.fixture
def help_of(run: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return the help of a command, in a window of so many columns."""

    def shown(*command: str, columns: int = 200) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        code, printed, _ = run(*command, "--help")
        assert code == 0
        return printed

    return shown


def assert_one_line(error: str, *words: str) -> None:
    assert error.startswith("datastorage: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    for word in words:
        assert word in error


@pytest.mark.parametrize("commit", [None, "03a1df7338d91b4be4edc0ca3d6fb3c9df577006"])
def test_version(run: Command, monkeypatch: pytest.MonkeyPatch, commit: str | None) -> None:
    monkeypatch.setattr("datastorage.cli.versiontext.revision", lambda: commit)
    code, printed, error = run("version")
    assert (code, error) == (0, "")
    assert printed == (
        f"datastorage {__version__}\n"
        f"revision    {commit or 'unknown'}\n"
        f"python      {platform.python_version()}\n"
        f"platform    {sys.platform}/{os.uname().machine}\n"
    )


def test_settings_prints_the_table(run: Command) -> None:
    assert run("settings") == (0, settings_table(), "")


def test_openapi_prints_the_document(run: Command) -> None:
    code, printed, _ = run("openapi")
    assert (code, json.loads(printed)) == (0, document())


def test_the_shipped_crds_are_up_to_date(run: Command) -> None:
    assert run("crds", "--check", "--output-dir", str(ROOT / "crds")) == (0, "up to date\n", "")


def test_stale_crds_are_named(run: Command, tmp_path: Path) -> None:
    code, printed, _ = run("crds", "--output-dir", str(tmp_path))
    assert code == 0
    first, second = (Path(line) for line in printed.splitlines())
    assert run("crds", "--check", "--output-dir", str(tmp_path))[0] == 0
    first.write_text("stale", encoding="utf-8")
    code, _, error = run("crds", "--check", "--output-dir", str(tmp_path))
    assert code == 1
    assert_one_line(error, first.name, "run 'datastorage crds'")
    assert second.name not in error


def test_gc_deletes_nothing_by_itself(run: Command) -> None:
    code, _, error = run("gc")
    assert code == 2
    assert_one_line(error, "--dry-run")


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (("run",), "DATASTORAGE_DATABASE_URL"),
        (("migrate",), "DATASTORAGE_DATABASE_OWNER_URL"),
        (("reindex",), "DATASTORAGE_DATABASE_OWNER_URL"),
        (("gc", "--dry-run"), "DATASTORAGE_DATABASE_URL"),
        (("list",), "DATASTORAGE_DATABASE_URL"),
    ],
)
def test_without_a_database_url_one_line_says_so(
    run: Command, command: tuple[str, ...], setting: str
) -> None:
    code, printed, error = run(*command)
    assert (code, printed) == (2, "")
    assert_one_line(error, f": {setting} is not set")
    assert ("--server" in error) == (command == ("list",))


@pytest.mark.parametrize("command", [("run",), ("migrate",), ("gc", "--dry-run")])
def test_a_wrong_setting_stops_the_start(
    run: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DATASTORAGE_API_PORT", "http")
    code, _, error = run(*command)
    assert code == 2
    assert_one_line(error, "DATASTORAGE_API_PORT: ")


def test_migrate_without_a_server_is_one_line(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_OWNER_URL", "postgresql://owner:hunter2@127.0.0.1:1/name")
    code, _, error = run("migrate")
    assert code == 1
    assert_one_line(error, "PostgreSQL at 127.0.0.1:1 can't be reached: Connection refused")
    assert "hunter2" not in error


def test_migrate_waits_no_longer_than_the_option_says(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_OWNER_URL", "postgresql://owner:hunter2@127.0.0.1:1/name")
    code, _, error = run("migrate", "--wait", "0.1")
    assert code == 1
    assert error.splitlines()[-1].startswith("datastorage: PostgreSQL at 127.0.0.1:1 can't be reached")
    assert "hunter2" not in error


def test_a_wait_is_reported_once_for_each_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors = [TransientError(reason) for reason in ("refused", "refused", "starting up", "starting up")]

    def operation() -> str:
        if errors:
            raise errors.pop(0)
        return "served"

    assert waiting.when_it_serves(operation, 600, pause_seconds=0.0) == "served"
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "refused", "starting up",
    ]  # fmt: skip


def test_migrate_does_not_wait_if_waiting_would_not_help(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_OWNER_URL", "mysql://owner@127.0.0.1:1/name")
    code, _, error = run("migrate", "--wait", "600")
    assert code == 2
    assert_one_line(error, "DATASTORAGE_DATABASE_OWNER_URL must start with postgresql://")


def test_a_warning_of_a_command_has_its_reason() -> None:
    program = (
        "import logging, sys; from datastorage import cli; from datastorage.cli import about; "
        "about.settings_table = lambda: logging.getLogger('datastorage.part').warning("
        "'redis does not serve', extra={'error': 'no connection'}) or ''; "
        "sys.argv = ['datastorage', 'settings']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
        timeout=60,
    )
    assert done.stderr == "datastorage: redis does not serve error=no connection\n"


_COMMANDS = [name for name, listing in OVERVIEW.items() if not listing.is_hidden]
_SUBCOMMANDS = [
    *(("rejected", name) for name in ("list", "show", "retry")),
    *(("outbox", name) for name in ("show", "list", "retry", "drop")),
]


def test_the_overview_lists_every_command(run: Command) -> None:
    code, printed, _ = run("--help")
    assert code == 0
    words = printed.split()
    assert [name for name in OVERVIEW if name in words] == _COMMANDS
    assert run()[1].strip() == printed.strip()


@pytest.mark.parametrize("module", sorted({listing.module for listing in OVERVIEW.values()}))
def test_every_command_of_a_module_is_in_the_overview(module: str) -> None:
    typer_of_module = importlib.import_module(f"datastorage.cli.{module}").commands
    callbacks = [command.name or command.callback.__name__ for command in typer_of_module.registered_commands]
    groups = [group.name for group in typer_of_module.registered_groups]
    assert {*callbacks, *groups} == {name for name, listing in OVERVIEW.items() if listing.module == module}


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_summary_of_a_command_is_the_first_paragraph_of_its_help(
    help_of: Callable[..., str], name: str
) -> None:
    usage, summary, *_ = (line.strip() for line in help_of(name).splitlines() if line.strip())
    assert usage.startswith("Usage:")
    assert summary == OVERVIEW[name].summary


@pytest.mark.parametrize("command", [*((name,) for name in _COMMANDS), *_SUBCOMMANDS], ids=" ".join)
def test_no_help_is_cut_in_a_narrow_window(help_of: Callable[..., str], command: tuple[str, ...]) -> None:
    assert "\N{HORIZONTAL ELLIPSIS}" not in help_of(*command, columns=80)


@pytest.mark.parametrize(
    "command",
    [*((name,) for name in _COMMANDS if name not in {"rejected", "outbox"}), *_SUBCOMMANDS],
    ids=" ".join,
)
def test_every_help_shows_an_example(help_of: Callable[..., str], command: tuple[str, ...]) -> None:
    examples = help_of(*command).partition("Example")[2].partition("╭")[0]
    assert f"datastorage {' '.join(command)}" in examples
    # The library takes the indentation away where nothing stands between the summary and the examples.
    assert all(line.startswith(" " * 5) for line in examples.splitlines()[1:] if line.strip())


def test_a_misspelled_command_is_answered_with_the_right_one(run: Command) -> None:
    code, printed, error = run("serach", "x")
    assert (code, printed) == (2, "")
    assert "No such command 'serach'. Did you mean 'search'?" in " ".join(error.split())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("list", "--limt", "3"), "No such option: --limt (Possible options: --limit)."),
        (("search",), "Missing argument 'QUESTION'."),
        (
            ("list", "-o", "xml"),
            "'-o': 'xml' is not one of 'table', 'wide', 'json'.",
        ),
        (("migrate", "--wait", "-1"), "greater than or equal to 0."),
        (("outbox", "list", "more"), "Got unexpected extra argument(s) (more)."),
    ],
)
def test_an_error_in_the_arguments_is_one_line(run: Command, command: tuple[str, ...], message: str) -> None:
    code, printed, error = run(*command)
    assert (code, printed) == (2, "")
    words = [word for word in command if word.isalpha() and word not in {"xml", "more"}]
    assert_one_line(error, message, f"Try 'datastorage {' '.join(words)} --help'.")
    assert "Put --" not in error


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("-staging", "No such option: -s."),
        ("-oom checkout", "'om checkout' is not one of"),
        ("-nginx checkout", "Missing argument 'QUESTION'."),
    ],
)
def test_a_question_that_begins_with_a_minus_needs_two_dashes(
    run: Command, question: str, message: str
) -> None:
    code, printed, error = run("search", question)
    assert (code, printed) == (2, "")
    assert_one_line(
        error, message, "Put -- before a text that begins with -. Try 'datastorage search --help'."
    )
    assert "Put --" not in run("list", question)[2], "it takes no text"
    assert "Put --" not in run("search", "-o", "xml", question[1:])[2]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("disk", "full"), "Put the question in quotation marks."),
        (("--", "-a b", "--limit", "3"), "Put the question in quotation marks, and options before --."),
    ],
)
def test_a_question_of_several_arguments_needs_quotation_marks(
    run: Command, words: tuple[str, ...], hint: str
) -> None:
    code, printed, error = run("search", *words)
    assert (code, printed) == (2, "")
    assert_one_line(error, "Got unexpected extra argument", hint, "Try 'datastorage search --help'.")
    assert "quotation marks" not in run("timeline", *words)[2]


def test_a_command_is_found_behind_two_dashes(run: Command) -> None:
    assert run("--", "version") == (0, version_text(), "")


_LARGE = {
    "aiohttp", "alembic", "asyncpg", "fastapi", "kopf", "numpy", "prometheus_client", "pydantic", "redis",
    "sqlalchemy", "yaml",
}  # fmt: skip


def test_the_overview_loads_none_of_the_large_libraries() -> None:
    """Help should come within half a second, and each of these libraries takes a large share of that."""
    program = (
        "import sys; from datastorage import cli; sys.argv = ['datastorage', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"sys.exit(', '.join(sorted({_LARGE} & sys.modules.keys())) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (("outbox", "retry"), "--state, --uid and --all"),
        (("outbox", "drop"), "--state, --uid and --all"),
        (("rejected", "retry"), "UID, --reason, --namespace and --all"),
    ],
)
def test_the_help_says_which_options_are_required(
    help_of: Callable[..., str], command: tuple[str, ...], options: str
) -> None:
    printed = " ".join(help_of(*command).split())
    assert f"ne of {options}" in printed
    assert "required" in printed
    assert "(all)" not in printed
