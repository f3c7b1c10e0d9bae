"""The command that exports the archive."""

import sys
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from datastorage.assembly.opened import OpenedArchive
from datastorage.cli.archive import opening
from datastorage.cli.exportfile import ExportFile
from datastorage.cli.filters import FilterOptions
from datastorage.cli.opened import with_opened
from datastorage.cli.optiongroups import with_option_groups
from datastorage.cli.output import note
from datastorage.cli.progress import display, following
from datastorage.cli.server import ServerOptions
from datastorage.errors import DataStorageError, InvalidQueryError

commands = typer.Typer()


@commands.command()
@with_option_groups
def export(
    *,
    filters: FilterOptions,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new file. Without it, the export goes to standard output."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue FILE where it ends, with the same filters: one that broke off, or a complete one "
            "that is to get what was stored since.",
        ),
    ] = False,
    server: ServerOptions,
) -> None:
    """Write the archive, or chosen records, to a file that proves itself.

    Each line is a JSON object with one record: every AuditRecord, and every
    generation of every ActionTrace, in the order in which they were stored. The
    last line says how many lines came before it, and the SHA-256 of all their
    bytes. A file without it is incomplete: --resume continues it. No record is
    left out, and none comes twice.

    The stored bytes are in each line as they are: those between the first
    ,"record": and the closing brace have the SHA-256 of its contentHash.

    For an export that is to be resumed, write --since and --until as times:
    "24h ago" is another filter each time.

    Examples:
        datastorage export --output archive.ndjson

        datastorage export --output archive.ndjson --resume

        datastorage export --namespace payments | zstd > payments.ndjson.zst

        head -n -1 archive.ndjson | sha256sum; tail -n 1 archive.ndjson
    """
    if resume and output is None:
        raise InvalidQueryError("--resume needs --output FILE: the file that is to be continued")
    try:
        with closing(_opened(output, resume=resume)) as file:
            changed = with_opened(opening(server), partial(_export, filters, file))
            if not file.count:
                note("no records found")
    except OSError as error:
        raise DataStorageError(f"{output or 'standard output'}: {error.strerror}") from error
    if changed:
        raise DataStorageError(f"{changed:,} records are not as they were stored (intact is false)")


def _opened(path: Path | None, *, resume: bool) -> ExportFile:
    if path is None:
        return ExportFile(sys.stdout.buffer)
    return ExportFile.resume(path) if resume else ExportFile.create(path)


async def _export(filters: FilterOptions, file: ExportFile, opened: OpenedArchive) -> int:
    """Write the export; return how many records in it are not as they were stored."""
    now = datetime.fromtimestamp(await opened.time(), UTC) if filters.is_relative else datetime.now(UTC)
    begun = await opened.exports.begin(filters.at(now), token=file.token)
    with display() as shown:
        async with following(lambda: shown.show("records exported", file.count, None)):
            await file.write(begun.pieces())
    return begun.changed
