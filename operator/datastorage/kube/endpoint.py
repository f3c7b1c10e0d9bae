"""Reads the API server's address and our identity, from a kubeconfig or from the pod's own files.

Each call of ``load_endpoint`` reads everything again, because addresses, certificates and tokens change on
disk while the program runs.
"""

import base64
import binascii
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from yarl import URL

from datastorage.errors import ConfigurationError
from datastorage.files import read_file
from datastorage.kube import kubeconfig
from datastorage.kube.kubeconfig import ClusterEntry, CurrentContext, ExecEntry, UserEntry
from datastorage.kube.proxies import checked_proxy, environment_proxy

_HOST_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
_PORT_VARIABLE: Final = "KUBERNETES_SERVICE_PORT"
SERVICE_ACCOUNT_DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PLUGIN_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_INTERACTIVE_MODES: Final = ("Never", "IfAvailable", "Always")
# The name of a cluster entry's extension that is meant for the plugin.
_PLUGIN_EXTENSION: Final = "client.authentication.k8s.io/exec"
# The certificates of a large private PKI take some 10 KiB, a token 2 KiB.
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_PEM_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.+?-----END [A-Z ]+-----", re.DOTALL
)
_NOT_IN_HEADER: Final = re.compile(r"[\x00-\x1f\x7f]")
# Matches a character that a header's name can't have, or the percent sign that escapes such characters.
_NOT_IN_HEADER_NAME: Final = re.compile(rb"[^-!#$&'*+.^_`|~0-9A-Za-z]")


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate and its key, as PEM."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class ExecPlugin:
    """A program that prints credentials, and its input."""

    command: str
    arguments: tuple[str, ...] = field(repr=False)
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    api_version: str
    interactive_mode: str
    cluster: str = field(repr=False)
    """The description of the cluster for the plugin, as JSON; empty for none."""


@dataclass(frozen=True)
class Endpoint:
    """The address of the API server, the proxy and TLS settings, and the credentials that need no plugin."""

    source: str
    server: str
    proxy: str | None = field(default=None, repr=False)
    server_name: str | None = None
    insecure: bool = False
    authorities: str | None = field(default=None, repr=False)
    """Certificates as PEM; None for those of the operating system."""
    certificate: ClientCertificate | None = None
    authorization: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    plugin: ExecPlugin | None = None
    files: tuple[Path, ...] = ()
    """The files that were read. When one of them changes, everything is read again."""


class _Reader:
    """Reads files and remembers their paths."""

    def __init__(self, source: str, files: tuple[Path, ...] = ()) -> None:
        self.source = source
        self.files = list(files)

    def read(self, path: str | Path, name: str) -> bytes:
        """Return the file's bytes. Raises ConfigurationError, which names the setting."""
        self.files.append(Path(path))
        try:
            content = read_file(path, _MAX_FILE_BYTES)
        except OSError as error:
            raise ConfigurationError(f"{self.source}: {name}: {path}: {error.strerror}") from error
        if not content.strip():
            raise ConfigurationError(f"{self.source}: {name}: {path} is empty")
        return content

    def pem(self, path: str, data: str, name: str) -> bytes | None:
        """Return the PEM that an entry has as data or in a file. Data takes precedence, as in kubectl."""
        if data:
            try:
                return base64.b64decode("".join(data.split()), validate=True)
            except (binascii.Error, ValueError):
                raise ConfigurationError(f"{self.source}: {name}-data is not base64") from None
        return self.read(path, name) if path else None

    def token(self, path: str | Path, name: str) -> str:
        """Return the token in a file, without surrounding white space."""
        return checked_header(self.read(path, name).decode("utf-8", "replace").strip(), self.source, name)


def load_endpoint(
    environment: Mapping[str, str] | None = None,
    *,
    service_account: Path = SERVICE_ACCOUNT_DIRECTORY,
    context: str | None = None,
) -> Endpoint:
    """Return the endpoint of the pod's ServiceAccount, or of the kubeconfig.

    The kubeconfig is read if KUBECONFIG is set, if ``context`` names one of its contexts, or if the program
    does not run in a pod. ``service_account`` is the directory of the pod's own files. Raises
    ConfigurationError: one line that says what to do.
    """
    environment = os.environ if environment is None else environment
    if is_in_pod(environment) and not kubeconfig.is_named(environment) and context is None:
        return _from_pod(environment, service_account)
    return _from_context(kubeconfig.read_context(environment, context), environment)


def is_in_pod(environment: Mapping[str, str]) -> bool:
    """Return whether the variables are those of a pod."""
    return bool(environment.get(_HOST_VARIABLE) and environment.get(_PORT_VARIABLE))


def pod_namespace(
    environment: Mapping[str, str] | None = None, *, service_account: Path = SERVICE_ACCOUNT_DIRECTORY
) -> str | None:
    """Return the namespace of the pod, or None outside of a pod."""
    if not is_in_pod(os.environ if environment is None else environment):
        return None
    try:
        return read_file(service_account / "namespace", _MAX_FILE_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None


def checked_header(text: str, source: str, name: str) -> str:
    """Return a text that is valid in a header. Raises ConfigurationError, which does not show the text."""
    if _NOT_IN_HEADER.search(text):
        raise ConfigurationError(f"{source}: {name} contains line breaks or control characters")
    return text


def certificates_in(pem: bytes, setting: str) -> str:
    """Return the certificates of a bundle as PEM. Raises ConfigurationError, which names the setting."""
    # A bundle may have comments of any encoding between the certificates.
    certificates = _PEM_CERTIFICATE.findall(pem)
    if not certificates:
        raise ConfigurationError(f"{setting} contains no PEM certificate")
    return "\n".join(certificate.decode("ascii", "replace") for certificate in certificates)


def _from_pod(environment: Mapping[str, str], directory: Path) -> Endpoint:
    host, port = environment[_HOST_VARIABLE].strip("[]"), environment[_PORT_VARIABLE]
    reader = _Reader("the pod's ServiceAccount")
    server = _server_url(f"https://{f'[{host}]' if ':' in host else host}:{port}", _HOST_VARIABLE)
    return Endpoint(
        source=reader.source,
        server=str(server).rstrip("/"),
        proxy=environment_proxy(server, environment),
        authorities=_authorities(reader, reader.read(directory / "ca.crt", "CA"), "CA"),
        authorization=f"Bearer {reader.token(directory / 'token', 'token')}",
        files=tuple(reader.files),
    )


def _from_context(context: CurrentContext, environment: Mapping[str, str]) -> Endpoint:
    cluster, user = context.cluster, context.user
    reader = _Reader(context.source, context.files)
    _refuse_contradictions(context)
    authority = reader.pem(cluster.authority, cluster.authority_data, "certificate-authority")
    if authority is not None and cluster.insecure:
        raise ConfigurationError(
            f"{context.source}: certificate-authority and insecure-skip-tls-verify exclude each other; "
            "remove insecure-skip-tls-verify"
        )
    certificate = _client_certificate(reader, user)
    secured = authority is not None or cluster.insecure or certificate is not None
    server = _server_url(_with_scheme(cluster.server, secured=secured), f"{context.source}: server")
    proxy = (
        checked_proxy(cluster.proxy_url, f"{context.source}: proxy-url")
        if cluster.proxy_url
        else environment_proxy(server, environment)
    )
    headers = _impersonation(context)
    return Endpoint(
        source=context.source,
        server=str(server).rstrip("/"),
        proxy=proxy,
        server_name=cluster.tls_server_name or None,
        insecure=cluster.insecure,
        authorities=_authorities(reader, authority, "certificate-authority"),
        certificate=certificate,
        authorization=_authorization(reader, user),
        headers=(*headers, *([("Accept-Encoding", "identity")] if cluster.disable_compression else [])),
        # A token takes precedence over a plugin, as in kubectl.
        plugin=_plugin(context, authority) if user.plugin is not None and not _has_token(user) else None,
        files=tuple(reader.files),
    )


def _has_token(user: UserEntry) -> bool:
    return bool(user.token or user.token_file)


def _refuse_contradictions(context: CurrentContext) -> None:
    source, cluster, user = context.source, context.cluster, context.user
    if not cluster.server:
        raise ConfigurationError(f"{source}: the cluster of the current context has no server")
    if _has_token(user) and (user.username or user.password):
        raise ConfigurationError(
            f"{source}: the user {context.user_name!r} has a token and a password; remove one of them"
        )
    provider = user.auth_provider
    if provider is None:
        return
    if user.plugin is not None:
        raise ConfigurationError(
            f"{source}: the user {context.user_name!r} has both exec and auth-provider; remove auth-provider"
        )
    if not _has_token(user) and not (provider.name == "oidc" and provider.config.get("id-token")):
        raise ConfigurationError(
            f"{source}: auth-provider {provider.name!r} of the user {context.user_name!r} is not supported; "
            "use an exec plugin in its place (for gcp gke-gcloud-auth-plugin, for azure kubelogin, "
            "for oidc kubectl-oidc_login)"
        )


def _client_certificate(reader: _Reader, user: UserEntry) -> ClientCertificate | None:
    certificate = reader.pem(user.certificate, user.certificate_data, "client-certificate")
    if certificate is None:
        return None
    key = reader.pem(user.key, user.key_data, "client-key")
    if key is None:
        raise ConfigurationError(f"{reader.source}: client-certificate without client-key")
    return ClientCertificate(certificate, key)


def _authorities(reader: _Reader, pem: bytes | None, name: str) -> str | None:
    return None if pem is None else certificates_in(pem, f"{reader.source}: {name}")


def _authorization(reader: _Reader, user: UserEntry) -> str | None:
    # As in kubectl, the file takes precedence, and a token beside it is used while the file is missing.
    if user.token_file:
        try:
            return f"Bearer {reader.token(user.token_file, 'tokenFile')}"
        except ConfigurationError:
            if not user.token:
                raise
    if user.token:
        return f"Bearer {checked_header(user.token.strip(), reader.source, 'token')}"
    if user.username or user.password:
        return f"Basic {base64.b64encode(f'{user.username}:{user.password}'.encode()).decode()}"
    if user.auth_provider is not None:
        token = str(user.auth_provider.config["id-token"]).strip()
        return f"Bearer {checked_header(token, reader.source, 'id-token')}"
    return None


def _impersonation(context: CurrentContext) -> tuple[tuple[str, str], ...]:
    user = context.user
    if not user.impersonate:
        if user.impersonate_uid or user.impersonate_groups or user.impersonate_extra:
            raise ConfigurationError(
                f"{context.source}: as-uid, as-groups and as-user-extra of the user {context.user_name!r} "
                "need an 'as'"
            )
        return ()
    headers = [("Impersonate-User", user.impersonate)]
    if user.impersonate_uid:
        headers.append(("Impersonate-Uid", user.impersonate_uid))
    headers += [("Impersonate-Group", group) for group in user.impersonate_groups]
    for key, values in user.impersonate_extra.items():
        name = _NOT_IN_HEADER_NAME.sub(lambda found: b"%%%02X" % found[0][0], key.encode()).decode()
        headers += [(f"Impersonate-Extra-{name}", value) for value in values]
    for name, value in headers:
        checked_header(value, context.source, name)
    return tuple(headers)


def _plugin(context: CurrentContext, authority: bytes | None) -> ExecPlugin:
    entry = context.user.plugin
    assert entry is not None
    source = f"{context.source}: exec of the user {context.user_name!r}"
    if not entry.command:
        raise ConfigurationError(f"{source}: command is missing")
    if entry.api_version not in _PLUGIN_VERSIONS:
        raise ConfigurationError(
            f"{source}: apiVersion {entry.api_version!r} is not supported; it must be "
            f"{' or '.join(_PLUGIN_VERSIONS)}"
        )
    mode = entry.interactive_mode or ("IfAvailable" if entry.api_version.endswith("beta1") else "")
    if mode not in _INTERACTIVE_MODES:
        raise ConfigurationError(
            f"{source}: interactiveMode is {mode!r}; it must be one of {', '.join(_INTERACTIVE_MODES)}"
        )
    if shutil.which(entry.command, path=_path_of(entry)) is None:
        hint = f"; {' '.join(entry.install_hint.split())[:300]}" if entry.install_hint else ""
        raise ConfigurationError(f"{source}: there is no program {entry.command!r}; install it{hint}")
    return ExecPlugin(
        command=entry.command,
        arguments=entry.arguments,
        environment=tuple((variable.name, variable.value) for variable in entry.environment),
        api_version=entry.api_version,
        interactive_mode=mode,
        cluster=json.dumps(_cluster_info(context.cluster, authority)) if entry.provide_cluster_info else "",
    )


def _path_of(entry: ExecEntry) -> str | None:
    return next((item.value for item in entry.environment if item.name == "PATH"), None)


def _cluster_info(cluster: ClusterEntry, authority: bytes | None) -> dict[str, Any]:
    info = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure,
        "certificate-authority-data": base64.b64encode(authority or b"").decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
        "config": next(
            (item.extension for item in cluster.extensions if item.name == _PLUGIN_EXTENSION), None
        ),
    }
    return {name: value for name, value in info.items() if value}


def _with_scheme(server: str, *, secured: bool) -> str:
    if "://" in server:
        return server
    return f"{'https' if secured else 'http'}://{server}"


def _server_url(url: str, setting: str) -> URL:
    try:
        server = URL(url)
        fits = server.scheme in {"http", "https"} and bool(server.host) and server.port is not None
    except ValueError:
        fits = False
    if not fits or server.user is not None or server.query_string or server.fragment:
        raise ConfigurationError(
            f"{setting} is not the URL of an API server: give it in the form https://host:port"
        )
    return server
