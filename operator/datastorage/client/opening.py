"""Opens the way to the server that a command names: the URL, TLS, and the choice of a token."""

import ipaddress
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from yarl import URL

from datastorage.client.access import Access
from datastorage.client.server import Pace, Server, TokenSource
from datastorage.client.tokens import AccountToken, FileToken, GivenToken, NoToken, UserToken, remedies
from datastorage.errors import ConfigurationError
from datastorage.files import read_file
from datastorage.kube import kubeconfig
from datastorage.kube.credentials import trusting
from datastorage.kube.endpoint import Endpoint, certificates_in, is_in_pod, load_endpoint
from datastorage.kube.proxies import environment_proxy
from datastorage.kube.transport import Transport

TOKEN_VARIABLE: Final = "DATASTORAGE_TOKEN"  # noqa: S105  # the name of a variable
# The certificates of a large private PKI take some 10 KiB.
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024


@asynccontextmanager
async def open_server(
    access: Access, environment: Mapping[str, str] | None = None, pace: Pace = Pace()
) -> AsyncIterator[Server]:
    """Open the way to a server. Nothing is sent to it before it is used.

    Raises ConfigurationError: one line that says what to change.
    """
    environment = os.environ if environment is None else environment
    url = checked_url(access.url, insecure_http=access.insecure_http)
    async with AsyncExitStack() as stack:
        tokens = await _token_source(access, environment, stack)
        yield await stack.enter_async_context(
            Server(
                url,
                tokens,
                tls=trusting(_authorities(access.ca_file), "--ca-file") if url.scheme == "https" else None,
                server_name=access.tls_server_name,
                proxy=environment_proxy(url, environment),
                pace=pace,
            )
        )


def checked_url(text: str, *, insecure_http: bool) -> URL:
    """Return the URL of a server. Raises ConfigurationError, which does not repeat a password in it."""
    try:
        url = URL(text)
        fits = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        fits = False
    if not fits or url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ConfigurationError(
            "--server (DATASTORAGE_SERVER) must be the URL of a Data Storage server, such as "
            "https://datastorage.example:8443 or http://127.0.0.1:8080"
        )
    if url.scheme == "http" and not insecure_http and not _is_loopback(url.host or ""):
        raise ConfigurationError(
            f"{url.host} would get the token over plain HTTP, which others can read: use https, "
            "'kubectl port-forward' and http://127.0.0.1, or, where the network is trusted, --insecure-http"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _authorities(ca_file: Path | None) -> str | None:
    if ca_file is None:
        return None
    try:
        pem = read_file(ca_file, _MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"--ca-file {ca_file}: {error.strerror}") from error
    return certificates_in(pem, f"--ca-file {ca_file}")


async def _token_source(access: Access, environment: Mapping[str, str], stack: AsyncExitStack) -> TokenSource:
    """Return the source of the token; the first that is given counts."""
    if access.account is not None:
        return await _account_token(access, environment, stack)
    if access.user_token:
        return UserToken(_endpoint(access, environment), access.audience, on_demand=True)
    if access.token_file is not None:
        return FileToken(access.token_file, access.audience)
    if environment.get(TOKEN_VARIABLE):
        return GivenToken(SecretStr(environment[TOKEN_VARIABLE].strip()), TOKEN_VARIABLE, access.audience)
    names_kubeconfig = access.kubeconfig is not None or access.context is not None
    if not names_kubeconfig and is_in_pod(environment):
        if access.pod_token.exists():
            return FileToken(access.pod_token, access.audience)
        if not kubeconfig.is_named(environment):
            return NoToken(
                f"no token is mounted at {access.pod_token}: mount one for the audience {access.audience!r} "
                f"there, or {remedies(access.audience)}"
            )
    try:
        endpoint = _endpoint(access, environment)
    except ConfigurationError as error:
        if names_kubeconfig:
            raise
        return NoToken(f"no token was given ({error}): {remedies(access.audience)}")
    return UserToken(endpoint, access.audience, on_demand=False)


async def _account_token(
    access: Access, environment: Mapping[str, str], stack: AsyncExitStack
) -> TokenSource:
    namespace, slash, name = (access.account or "").partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise ConfigurationError(
            f"--as-serviceaccount must be NAMESPACE/NAME, such as shop/recorder, not {access.account!r}"
        )
    transport = await stack.enter_async_context(Transport(partial(_endpoint, access, environment)))
    return AccountToken(transport, namespace, name, access.audience)


def _endpoint(access: Access, environment: Mapping[str, str]) -> Endpoint:
    if access.kubeconfig is not None:
        environment = {**environment, kubeconfig.VARIABLE: str(access.kubeconfig)}
    return load_endpoint(environment, context=access.context)
