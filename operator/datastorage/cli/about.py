"""The commands that describe the program: its resources, its settings, its version."""

from pathlib import Path
from typing import Annotated

import typer

from datastorage.cli.settingstable import settings_table
from datastorage.cli.versiontext import version_text
from datastorage.errors import DataStorageError
from datastorage.resources.crd import render_crds, write_crds

commands = typer.Typer()


@commands.command()
def crds(
    output_dir: Annotated[Path, typer.Option(help="Directory to write the files to.")] = Path("crds"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the files differ from the models.")
    ] = False,
) -> None:
    """Write the CustomResourceDefinitions, generated from the models.

    Files of the same names are replaced.

    Examples:
        datastorage crds --output-dir crds

        datastorage crds --check
    """
    if not check:
        for path in write_crds(output_dir):
            typer.echo(path)
        return
    stale = [
        name
        for name, text in render_crds().items()
        if not (output_dir / name).is_file() or (output_dir / name).read_text(encoding="utf-8") != text
    ]
    if stale:
        raise DataStorageError(f"not as generated: {', '.join(stale)}; run 'datastorage crds'")
    typer.echo("up to date")


@commands.command()
def settings() -> None:
    """Print all settings as a Markdown table.

    Each setting is an environment variable, or a file of that name in
    DATASTORAGE_SECRETS_DIR.

    Example:
        datastorage settings
    """
    typer.echo(settings_table(), nl=False)


@commands.command()
def version() -> None:
    """Print the version, the commit, and Python's version.

    The commit is unknown unless the program runs from its image.

    Example:
        datastorage version
    """
    typer.echo(version_text(), nl=False)
