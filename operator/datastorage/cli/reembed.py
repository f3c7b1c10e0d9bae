"""The command that makes the vectors of all stored records with another model."""

from functools import partial
from typing import Annotated

import typer

from datastorage.assembly.commands import OpenedReembed, open_reembed
from datastorage.cli.opened import as_service_role
from datastorage.cli.output import note, note_named
from datastorage.cli.progress import followed
from datastorage.cli.stoppable import run_until_stopped
from datastorage.errors import ConfigurationError, EmbedderMisconfiguredError, TransientError
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.settings import Settings, load_settings
from datastorage.storage.schema import VECTORS
from datastorage.vectors.progress import Missing, Progress

commands = typer.Typer()


@commands.command()
def reembed(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the missing vectors; change nothing.")
    ] = False,
) -> None:
    """Make vectors of all stored records with the model of the settings.

    First, records that were stored without a text get their text. Then every
    text without a vector of this model gets one. Existing vectors stay, and the
    new ones are indexed on the way. The operator may run meanwhile. The command
    waits for a server that is away; it may be stopped at any point and started
    again.

    To change the model without a gap in the search: run this command with the
    new settings while the operator still has the old ones; restart the operator
    with the new ones; run this command again for the records stored meanwhile.
    Vectors of different models are kept apart, so that the old ones serve until
    then.

    Texts that the model refuses are listed at the end, and the exit code is 1.
    For texts that the earlier model had refused, run `datastorage outbox retry
    --state failed` once the operator has the new one.

    Counting the totals takes a second or so for a million records. --dry-run
    compares all texts with all vectors: some seconds for a million.

    Examples:
        datastorage reembed --dry-run

        DATASTORAGE_EMBEDDING_PROVIDER=wordllama datastorage reembed
    """
    settings = load_settings()
    make_room_for_deep_json()
    if run_until_stopped(_reembed(settings, dry_run=dry_run)):
        raise typer.Exit(1)


async def _reembed(settings: Settings, *, dry_run: bool) -> int:
    """Run the command; return how many texts were refused."""
    async with open_reembed(settings, writable=not dry_run) as opened:
        reembed, vectors = opened.work, opened.vectors
        model = str(vectors.embedder.model)
        check = partial(vectors.database.check_schema_version, VECTORS)
        async with followed(reembed.progress.stages, reembed.away):
            if dry_run:
                await check()
                missing = await reembed.missing()
            else:
                await vectors.breaker.run(check)
                await _refuse_wrong_settings(opened)
                await reembed.run()
    if dry_run:
        _print_missing(missing, model)
        return 0
    return _print_done(reembed.progress, model)


async def _refuse_wrong_settings(opened: OpenedReembed) -> None:
    """Raise ConfigurationError where waiting would not help; the work itself waits for an absent server."""
    embedder = opened.vectors.embedder
    # The last probe creates the model's tables: a model that does not work must leave none behind.
    for probe in (opened.texts.probe, embedder.probe, opened.vectors.tables.probe):
        try:
            with as_service_role():
                await probe()
        except EmbedderMisconfiguredError as error:
            raise ConfigurationError(str(error)) from error
        except TransientError:
            if probe == embedder.probe:
                return


def _print_missing(missing: Missing, model: str) -> None:
    typer.echo(f"records without a text: {missing.records_without_text:,}")
    typer.echo(f"texts without a vector of {model}: {missing.texts_without_vector:,} of {missing.texts:,}")


def _print_done(progress: Progress, model: str) -> int:
    typer.echo(f"records that had no text and have one now: {progress.given_text:,}")
    typer.echo(f"vectors of {model} made: {progress.embedded:,}")
    note_named("records left as they are", progress.skipped, progress.skipped_named)
    note_named("texts refused", progress.refused, progress.refused_named)
    if progress.index_error is not None:
        note(f"the index is not complete; the operator will complete it: {progress.index_error}")
    return progress.refused
