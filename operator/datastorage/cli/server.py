"""The options of commands that can ask a server over HTTP in place of a database."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from datastorage.client.access import Access
from datastorage.errors import ConfigurationError

_PANEL: Final = "The server"


def _option(*names: str, help: str, variable: str | None = None) -> typer.models.OptionInfo:  # noqa: A002  # as in typer
    found: typer.models.OptionInfo = typer.Option(
        *names, help=help, envvar=variable, rich_help_panel=_PANEL, show_default=False
    )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The options as they were typed. Each field is one option."""

    server: Annotated[
        str | None,
        _option(
            "--server",
            help="URL of a Data Storage server to ask, in place of the database of DATASTORAGE_DATABASE_URL. "
            "Empty: the database.",
            variable="DATASTORAGE_SERVER",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        _option(
            "--token-file",
            help="File with the token for the server, read again for each request. Without it: the variable "
            "DATASTORAGE_TOKEN; in a pod, /var/run/secrets/datastorage/token; otherwise the token of the "
            "kubeconfig's user if it is for the audience.",
            variable="DATASTORAGE_TOKEN_FILE",
        ),
    ] = None
    as_serviceaccount: Annotated[
        str | None,
        _option(
            "--as-serviceaccount",
            help="NAMESPACE/NAME of a ServiceAccount: get a token of it from the API server, as the user of "
            "the kubeconfig, who needs the right to create serviceaccounts/token.",
            variable="DATASTORAGE_AS_SERVICEACCOUNT",
        ),
    ] = None
    user_token: Annotated[
        bool,
        _option(
            "--user-token",
            help="Send the token of the kubeconfig's user even if it is not known to be for the audience. "
            "The server could then act as that user.",
        ),
    ] = False
    kubeconfig: Annotated[Path | None, _option("--kubeconfig", help="Kubeconfig in place of KUBECONFIG.")] = (
        None
    )
    context: Annotated[
        str | None, _option("--context", help="Context of the kubeconfig, in place of the current one.")
    ] = None
    audience: Annotated[
        str,
        _option(
            "--audience",
            help="Audience of the token, as DATASTORAGE_API_AUDIENCE of the server; by default datastorage.",
            variable="DATASTORAGE_API_AUDIENCE",
        ),
    ] = "datastorage"
    ca_file: Annotated[
        Path | None,
        _option(
            "--ca-file",
            help="PEM certificates of the authorities that may vouch for the server, in place of the "
            "system's.",
            variable="DATASTORAGE_CA_FILE",
        ),
    ] = None
    tls_server_name: Annotated[
        str | None,
        _option("--tls-server-name", help="Name in the server's certificate, if not that in the URL."),
    ] = None
    insecure_http: Annotated[
        bool,
        _option(
            "--insecure-http",
            help="Allow plain HTTP to another machine: everybody on the way can read the token.",
        ),
    ] = False

    @property
    def access(self) -> Access | None:
        """The server that is to be asked, or None for the database."""
        if not self.server:
            self._refuse_without_server()
            return None
        return Access(
            url=self.server,
            token_file=self.token_file,
            account=self.as_serviceaccount or None,
            user_token=self.user_token,
            kubeconfig=self.kubeconfig,
            context=self.context,
            audience=self.audience,
            ca_file=self.ca_file,
            tls_server_name=self.tls_server_name,
            insecure_http=self.insecure_http,
        )

    def _refuse_without_server(self) -> None:
        """Raise ConfigurationError for options about a server that no option names."""
        given = {
            "--user-token": self.user_token,
            "--kubeconfig": self.kubeconfig is not None,
            "--context": self.context is not None,
            "--tls-server-name": self.tls_server_name is not None,
            "--insecure-http": self.insecure_http,
        }
        useless = [name for name, is_given in given.items() if is_given]
        if useless:
            raise ConfigurationError(f"{useless[0]} needs a --server: without one, the database is asked")
