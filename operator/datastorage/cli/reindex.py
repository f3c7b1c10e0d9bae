"""The command that gives stored records the words that new ones are searched by."""

from typing import Annotated

import typer

from datastorage.assembly.commands import open_reindex
from datastorage.cli.output import note_named
from datastorage.cli.progress import followed
from datastorage.cli.stoppable import run_until_stopped
from datastorage.errors import ConfigurationError, MissingRightsError, TransientError
from datastorage.pipeline.reindex import ReindexProgress
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.settings import Settings, load_settings

commands = typer.Typer()


@commands.command()
def reindex(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the records that lack words; change nothing.")
    ] = False,
) -> None:
    """Let stored records be found by all of their words.

    A record is searched by the words of its whole spec. Records that an earlier
    version of the operator stored have only the words that it knew: those of
    their message and a few other fields. They are found by these, until this
    command has read their content and added the others.

    Only the index of words changes. The content of a record, its hash and its
    vector stay as they are.

    The command connects as the role that owns the schema, as `datastorage
    migrate` does, by DATASTORAGE_DATABASE_OWNER_URL: the service may not change
    a record. The operator may run meanwhile. 200 records change at a time, in a
    transaction of their own. The command waits for a server that is away; it
    may be stopped at any point and started again, and then looks only briefly
    at the records that are done.

    Run it once after the upgrade, when no replica of the earlier version is
    left. A repeat finds nothing to do.

    Records that have to stay as they are, because their content can't be read,
    are listed at the end, and the exit code is 1.

    --dry-run reads both tables of records: some seconds for a million.

    Examples:
        export DATASTORAGE_DATABASE_OWNER_URL=postgresql://owner:secret@db/audit

        datastorage reindex --dry-run

        datastorage reindex
    """
    settings = load_settings()
    make_room_for_deep_json()
    if run_until_stopped(_reindex(settings, dry_run=dry_run)):
        raise typer.Exit(1)


async def _reindex(settings: Settings, *, dry_run: bool) -> int:
    """Run the command; return how many records were left as they are."""
    async with open_reindex(settings, writable=not dry_run) as opened:
        if dry_run:
            typer.echo(f"records that lack words: {await opened.words.count_old():,}")
            return 0
        try:
            await opened.words.probe()
        except MissingRightsError as error:
            raise ConfigurationError(f"{error}: run this as the role that owns the schema") from error
        except TransientError:
            pass  # the work waits for the server
        work = opened.work
        async with followed(work.progress.stages, work.away):
            await work.run()
    return _print_done(work.progress)


def _print_done(progress: ReindexProgress) -> int:
    typer.echo(f"records given all of their words: {progress.changed:,}")
    note_named("records left as they are", progress.skipped, progress.skipped_named)
    return progress.skipped
