"""The program ``datastorage``: its commands together, and one line for each foreseen error.

A module of commands has a ``commands`` of its own (a Typer) and one line here.
"""

import logging
import sys
from typing import Final

import typer

from datastorage.cli import archive, operator, reference, rejected, vectors
from datastorage.errors import ConfigurationError, DataStorageError, InvalidQueryError
from datastorage.logs import configure_command_logging

_log = logging.getLogger(__name__)

_EXIT_USAGE: Final = 2
_EXIT_FAILURE: Final = 1

app = typer.Typer(
    name="datastorage",
    help="Moves AuditRecords and ActionTraces from the cluster into PostgreSQL, and clears what is stored.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(operator.commands)
app.add_typer(archive.commands)
app.add_typer(rejected.commands)
app.add_typer(vectors.commands)
app.add_typer(reference.commands)


def main() -> None:
    """Run the command line. A foreseen error is one line; anything else is a bug and shows its trace."""
    configure_command_logging()
    try:
        app(standalone_mode=True)
    except (ConfigurationError, InvalidQueryError) as error:
        _fail(error, _EXIT_USAGE)
    except DataStorageError as error:
        if error.__cause__ is not None:
            _log.debug("Traceback", exc_info=error.__cause__)
        _fail(error, _EXIT_FAILURE)


def _fail(error: Exception, code: int) -> None:
    sys.stderr.write(f"datastorage: {error}\n")
    sys.exit(code)
