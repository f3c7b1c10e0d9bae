"""Options that several commands have, and their checks."""

import uuid
from typing import Annotated

import typer

from datastorage.cli.output import DocumentFormat, Format
from datastorage.errors import InvalidQueryError

Output = Annotated[Format, typer.Option("--output", "-o", help="Output format.")]
DocumentOutput = Annotated[DocumentFormat, typer.Option("--output", "-o", help="Output format.")]
Cursor = Annotated[str | None, typer.Option(help="Continue after an earlier page, by its cursor.")]


def parse_uid(option: str, text: str) -> str:
    """Return the UID that an option names. Raises InvalidQueryError, which names the option."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidQueryError(
            f"{option} must be the UID of an object, such as {uuid.UUID(int=0)}, not {text[:50]!r}"
        ) from None
