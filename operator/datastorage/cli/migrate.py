"""The command that creates the database schemas and brings them up to date."""

from typing import Annotated

import typer

from datastorage.cli.waiting import when_it_serves
from datastorage.settings import load_settings
from datastorage.storage.migrate import migrate_all

commands = typer.Typer()


@commands.command()
def migrate(
    wait: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=3600.0,
            metavar="SECONDS",
            help="Time to wait for a server that can't be reached yet.",
        ),
    ] = 0.0,
) -> None:
    """Create the database schemas, or bring them up to date.

    The command connects as the role that owns the schemas, by
    DATASTORAGE_DATABASE_OWNER_URL. It creates the vectors' schema beside the
    archive's, or on the server of DATASTORAGE_VECTOR_DATABASE_URL; with
    DATASTORAGE_EMBEDDING_PROVIDER=none it leaves that schema out. It may be
    repeated, and run from several replicas at once.

    Examples:
        export DATASTORAGE_DATABASE_OWNER_URL=postgresql://owner:secret@db/audit

        datastorage migrate

        datastorage migrate --wait 300
    """
    settings = load_settings()
    for chain, before, after in when_it_serves(lambda: migrate_all(settings), wait):
        if before == after:
            typer.echo(f"{chain}: up to date (version {after})")
        else:
            typer.echo(f"{chain}: migrated from {before or 'nothing'} to version {after}")
