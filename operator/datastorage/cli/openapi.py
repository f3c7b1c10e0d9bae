"""The command that describes the REST API."""

import typer

from datastorage.api.document import document_text

commands = typer.Typer()


@commands.command()
def openapi() -> None:
    """Print the OpenAPI document of the REST API.

    A running operator serves the same document at /openapi.json, and a
    page for people at /docs.

    Example:
        datastorage openapi > openapi.json
    """
    typer.echo(document_text(), nl=False)
