"""The program ``datastorage``: the overview of its commands, and one line for each foreseen error.

A module of commands has a Typer named ``commands``; each of its commands has a line in the overview here.
"""

import importlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from datastorage.cli.completion import VARIABLE as COMPLETION_VARIABLE
from datastorage.cli.completion import words_to_complete
from datastorage.errors import ConfigurationError, DataStorageError, InvalidQueryError
from datastorage.logs import configure_command_logging

_log = logging.getLogger(__name__)

_EXIT_USAGE: Final = 2
_EXIT_FAILURE: Final = 1

_ARCHIVE: Final = "The archive"
_VECTORS: Final = "The vectors"


@dataclass(frozen=True, slots=True)
class Listing:
    """One command in the overview."""

    module: str
    """The module below ``datastorage.cli`` that has the command."""
    summary: str
    """The first paragraph of the command's own help."""
    panel: str | None = None
    is_hidden: bool = False


OVERVIEW: Final[Mapping[str, Listing]] = {
    "run": Listing("operator", "Run the operator until it gets SIGTERM or Ctrl-C."),
    "migrate": Listing("migrate", "Create the database schemas, or bring them up to date."),
    "gc": Listing("gc", "Show which stored objects the operator will delete from the cluster, and when."),
    "top": Listing("top", "Watch the running replicas: rates, depths, lag, and what is away."),
    "crds": Listing("about", "Write the CustomResourceDefinitions, generated from the models."),
    "openapi": Listing("openapi", "Print the OpenAPI document of the REST API."),
    "settings": Listing("about", "Print all settings as a Markdown table."),
    "version": Listing("about", "Print the version, the commit, and Python's version."),
    "completion": Listing(
        "completion", "Print the script that lets a shell complete commands, options and kinds."
    ),
    "search": Listing("archive", "Search the archive by meaning and by words.", _ARCHIVE),
    "list": Listing("archive", "List records, the newest first.", _ARCHIVE),
    "get": Listing("archive", "Print one record.", _ARCHIVE),
    "timeline": Listing("archive", "Print all records of one incident, in the order of events.", _ARCHIVE),
    "export": Listing(
        "export", "Write the archive, or chosen records, to a file that proves itself.", _ARCHIVE
    ),
    "store": Listing("store", "Send AuditRecords to a server, which stores them.", _ARCHIVE),
    "history": Listing(
        "overviews", "Print what was done to an object before, and whether it helped.", _ARCHIVE
    ),
    "summary": Listing("overviews", "Count records by groups: failures, durations, effectiveness.", _ARCHIVE),
    "rejected": Listing(
        "rejected", "Show the records that PostgreSQL could not hold, and try them again.", _ARCHIVE
    ),
    "reindex": Listing("reindex", "Let stored records be found by all of their words.", _ARCHIVE),
    "reembed": Listing(
        "reembed", "Make vectors of all stored records with the model of the settings.", _VECTORS
    ),
    "outbox": Listing(
        "outbox", "Show the vectors that are still missing, try them again, or drop them.", _VECTORS
    ),
    "reference": Listing(
        "reference", "Write the generated pages and tables into docs/reference.", is_hidden=True
    ),
}

# The name of the program file by which kubectl finds it.
_PLUGIN: Final = "kubectl-datastorage"
_COMMAND: Final = re.compile(rf"\bdatastorage (?=(?:{'|'.join(OVERVIEW)})\b)")


def main() -> None:
    """Run the command line. A foreseen error is one line; any other is a bug, shown with its traceback."""
    configure_command_logging()
    words = words_to_complete()
    name = _name()
    program = _program(name, sys.argv[1:] if words is None else words)
    try:
        # Otherwise typer would print its errors itself, in a box.
        sys.exit(program(standalone_mode=False, prog_name=name, complete_var=COMPLETION_VARIABLE) or 0)
    except typer.TyperException as error:
        _fail(_in_one_line(error), error.exit_code)
    except typer.Abort:
        _fail("aborted", _EXIT_FAILURE)
    except (ConfigurationError, InvalidQueryError) as error:
        _fail(error, _EXIT_USAGE)
    except DataStorageError as error:
        if error.__cause__ is not None:
            _log.debug("Traceback", exc_info=error.__cause__)
        _fail(error, _EXIT_FAILURE)


def _name() -> str:
    """Return what people type to run this program: kubectl runs it as a plugin."""
    return "kubectl datastorage" if Path(sys.argv[0]).name == _PLUGIN else "datastorage"


def _program(called: str, arguments: Sequence[str]) -> typer.Typer:
    """Return the program with the command that the arguments name, or with the overview of all commands.

    Only the module of that command is loaded: loading all of them takes a second, and each command needs only
    a few of their libraries.
    """
    program = typer.Typer(
        name="datastorage",
        help="Moves AuditRecords and ActionTraces from the cluster into an archive in PostgreSQL, and asks "
        "the archive.\n\n"
        "Questions go to the database of DATASTORAGE_DATABASE_URL, or to a server: --server URL. "
        "Each command describes its options with --help.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    name = next((argument for argument in arguments if argument != "--"), None)
    if name is not None and name in OVERVIEW:
        module = importlib.import_module(f"datastorage.cli.{OVERVIEW[name].module}")
        _name_in_examples(called, module.commands)
        program.add_typer(module.commands)
        return program
    program.callback()(_options)
    for name, listing in OVERVIEW.items():
        add = program.command(
            name, help=listing.summary, rich_help_panel=listing.panel, hidden=listing.is_hidden
        )
        add(_not_loaded)
    return program


def _name_in_examples(called: str, commands: typer.Typer) -> None:
    """Make the examples of the commands say what people type."""
    for command in commands.registered_commands:
        if command.callback is not None and command.callback.__doc__:
            command.callback.__doc__ = _COMMAND.sub(f"{called} ", command.callback.__doc__)
    for group in commands.registered_groups:
        inner = group.typer_instance
        if inner is not None:
            if isinstance(inner.info.help, str):
                inner.info.help = _COMMAND.sub(f"{called} ", inner.info.help)
            _name_in_examples(called, inner)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer's callback
    if wanted:
        from datastorage.cli.versiontext import version_text  # noqa: PLC0415  # few commands need it

        typer.echo(version_text(), nl=False)
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version, the commit, and Python's version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""
    del version


def _not_loaded() -> NoReturn:
    """Stand in for a command in the overview; a command that is named is loaded instead."""
    raise AssertionError


def _in_one_line(error: typer.TyperException) -> str:
    """Return the text of an error in the arguments; empty if typer has printed the help in its place."""
    message = " ".join(error.format_message().split()).replace("Value error, ", "")
    context: typer.Context | None = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end}{_hint(message, context)} Try '{context.command_path} --help'."


def _hint(message: str, context: typer.Context) -> str:
    """Return the remedy where words of a text may have been taken for something else; else nothing."""
    if not any(each.param_type_name == "argument" for each in context.command.params):
        return ""
    words = sys.argv[1:]
    if context.command.name == "search" and message.startswith("Got unexpected extra argument"):
        return " Put the question in quotation marks" + (", and options before --." if "--" in words else ".")
    may_mean_a_text = any(re.match("-[^-].", word) for word in words)  # such as "-staging"
    return " Put -- before a text that begins with -." if may_mean_a_text else ""


def _fail(error: Exception | str, code: int) -> NoReturn:
    if text := str(error):
        sys.stderr.write(f"datastorage: {text}\n")
    sys.exit(code)
