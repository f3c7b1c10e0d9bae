"""Reads kubeconfig files, merges them as kubectl does, and selects the current context.

The models here mirror the files. endpoint.py derives the API server's address and our identity from them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from datastorage.errors import ConfigurationError
from datastorage.files import read_file

VARIABLE: Final = "KUBECONFIG"
# Files with hundreds of clusters take less than 2 MiB.
_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
# The C loader, if the library has it, takes a tenth of the time for a large file.
_YamlLoader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Go refuses numbers and booleans in place of a text. Converting them would mean guessing how they were
# written.
_Text = Annotated[str, Strict()]
_Flag = Annotated[bool, Strict()]


class _Entry(BaseModel):
    """An entry of the file. Unknown keys are ignored, as in kubectl; a null means an absent value."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


class Extension(_Entry):
    """Additional data under a name."""

    name: _Text = ""
    extension: Any = None


class ClusterEntry(_Entry):
    """The address of a cluster's server, and how the server is authenticated."""

    server: _Text = ""
    tls_server_name: _Text = Field("", alias="tls-server-name")
    insecure: _Flag = Field(default=False, alias="insecure-skip-tls-verify")
    authority: _Text = Field("", alias="certificate-authority")
    authority_data: _Text = Field("", alias="certificate-authority-data", repr=False)
    proxy_url: _Text = Field("", alias="proxy-url", repr=False)
    disable_compression: _Flag = Field(default=False, alias="disable-compression")
    extensions: tuple[Extension, ...] = ()


class EnvironmentVariable(_Entry):
    """One variable for a plugin."""

    name: _Text
    value: _Text = Field("", repr=False)


class ExecEntry(_Entry):
    """A program that prints credentials."""

    api_version: _Text = Field("", alias="apiVersion")
    command: _Text = ""
    arguments: tuple[_Text, ...] = Field((), alias="args", repr=False)
    environment: tuple[EnvironmentVariable, ...] = Field((), alias="env")
    install_hint: _Text = Field("", alias="installHint")
    provide_cluster_info: _Flag = Field(default=False, alias="provideClusterInfo")
    interactive_mode: _Text = Field("", alias="interactiveMode")


class AuthProviderEntry(_Entry):
    """The older form of login, which plugins have replaced."""

    name: _Text = ""
    config: dict[str, Any] = Field(default_factory=dict, repr=False)


class UserEntry(_Entry):
    """The credentials of a user, and the user to impersonate."""

    certificate: _Text = Field("", alias="client-certificate")
    certificate_data: _Text = Field("", alias="client-certificate-data", repr=False)
    key: _Text = Field("", alias="client-key")
    key_data: _Text = Field("", alias="client-key-data", repr=False)
    token: _Text = Field("", repr=False)
    token_file: _Text = Field("", alias="tokenFile")
    impersonate: _Text = Field("", alias="as")
    impersonate_uid: _Text = Field("", alias="as-uid")
    impersonate_groups: tuple[_Text, ...] = Field((), alias="as-groups")
    impersonate_extra: dict[_Text, tuple[_Text, ...]] = Field(default_factory=dict, alias="as-user-extra")
    username: _Text = ""
    password: _Text = Field("", repr=False)
    auth_provider: AuthProviderEntry | None = Field(None, alias="auth-provider")
    plugin: ExecEntry | None = Field(None, alias="exec")


class ContextEntry(_Entry):
    """A cluster and a user."""

    cluster: _Text = ""
    user: _Text = ""


class _NamedCluster(_Entry):
    name: _Text
    cluster: ClusterEntry = Field(default_factory=lambda: ClusterEntry.model_validate({}))


class _NamedUser(_Entry):
    name: _Text
    user: UserEntry = Field(default_factory=lambda: UserEntry.model_validate({}))


class _NamedContext(_Entry):
    name: _Text
    context: ContextEntry = Field(default_factory=ContextEntry)


class _File(_Entry):
    clusters: tuple[_NamedCluster, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()
    current_context: _Text = Field("", alias="current-context")


class CurrentContext(BaseModel):
    """The current context in the files. Its paths are absolute."""

    model_config = ConfigDict(frozen=True)

    files: tuple[Path, ...]
    cluster: ClusterEntry
    user: UserEntry
    user_name: str

    @property
    def source(self) -> str:
        """The names of the files, for errors."""
        return f"kubeconfig {os.pathsep.join(map(str, self.files))}"


def is_named(environment: Mapping[str, str]) -> bool:
    """Return whether the variable is set. An empty value counts as unset, as in kubectl."""
    return bool(environment.get(VARIABLE))


def read_context(environment: Mapping[str, str], name: str | None = None) -> CurrentContext:
    """Return a context of the files that KUBECONFIG names, or of ~/.kube/config; the current one by default.

    Of entries with the same name, the one in the first file counts as a whole; the first current-context
    counts too. Raises ConfigurationError: one line that names the file and says what to do.
    """
    named = [Path(name) for name in environment.get(VARIABLE, "").split(os.pathsep) if name]
    paths = tuple(dict.fromkeys(named or [Path.home() / ".kube" / "config"]))
    # Of several files, kubectl reads those that exist. If none does, kubectl would use localhost.
    files = {path: _read(path) for path in paths if len(paths) == 1 or path.exists()}
    where = f"kubeconfig {os.pathsep.join(map(str, paths))}"
    if not files:
        raise ConfigurationError(f"{where}: no such file; set {VARIABLE} to a file that exists")
    chosen = next((file.current_context for file in files.values() if file.current_context), "")
    contexts = _first({}, [(entry.name, entry.context) for file in files.values() for entry in file.contexts])
    if name is not None and name not in contexts:
        raise ConfigurationError(f"{where}: there is no context {name!r} in it{_names(contexts)}")
    if name is None and not chosen:
        raise ConfigurationError(
            f"{where}: no current-context is set; run 'kubectl config use-context NAME'{_names(contexts)}"
        )
    chosen = name or chosen
    if chosen not in contexts:
        raise ConfigurationError(
            f"{where}: current-context names {chosen!r}, which is not a context in it; "
            f"run 'kubectl config use-context NAME'{_names(contexts)}"
        )
    clusters: dict[str, ClusterEntry] = {}
    users: dict[str, UserEntry] = {}
    for path, file in files.items():
        folder = path.absolute().parent
        _first(clusters, [(entry.name, _cluster_in(folder, entry.cluster)) for entry in file.clusters])
        _first(users, [(entry.name, _user_in(folder, entry.user)) for entry in file.users])
    context = contexts[chosen]
    if context.cluster not in clusters:
        raise ConfigurationError(
            f"{where}: context {chosen!r} names the cluster {context.cluster!r}, which is not in it"
            f"{_names(clusters)}"
        )
    if context.user and context.user not in users:
        raise ConfigurationError(
            f"{where}: context {chosen!r} names the user {context.user!r}, which is not in it{_names(users)}"
        )
    return CurrentContext(
        files=paths,
        cluster=clusters[context.cluster],
        user=users.get(context.user) or UserEntry.model_validate({}),
        user_name=context.user,
    )


def _read(path: Path) -> _File:
    where = f"kubeconfig {path}"
    try:
        text = read_file(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"{where}: {error.strerror}; set {VARIABLE}, or run in a pod with a ServiceAccount"
        ) from error
    try:
        content = yaml.load(text, Loader=_YamlLoader)  # noqa: S506  # both loaders are the safe ones
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigurationError(f"{where}: not YAML: {error.problem or 'broken'}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not YAML ({type(error).__name__})") from None
    if content is None:
        raise ConfigurationError(f"{where}: the file is empty")
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise ConfigurationError(f"{where}: {place.lstrip('.') or 'the file'}: {message}") from None
    for kind, names in (
        ("cluster", [entry.name for entry in file.clusters]),
        ("user", [entry.name for entry in file.users]),
        ("context", [entry.name for entry in file.contexts]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"{where}: the {kind} {twice!r} occurs twice; remove one")
    return file


_T = TypeVar("_T")


def _first(known: dict[str, _T], entries: Sequence[tuple[str, _T]]) -> dict[str, _T]:
    """Add the entries whose names are not known yet; return ``known``."""
    for name, entry in entries:
        known.setdefault(name, entry)
    return known


def _names(known: Mapping[str, Any]) -> str:
    return f" (there are: {', '.join(sorted(known))})" if known else ""


def _cluster_in(folder: Path, cluster: ClusterEntry) -> ClusterEntry:
    return cluster.model_copy(update={"authority": _absolute(folder, cluster.authority)})


def _user_in(folder: Path, user: UserEntry) -> UserEntry:
    update: dict[str, Any] = {
        name: _absolute(folder, getattr(user, name)) for name in ("certificate", "key", "token_file")
    }
    if user.plugin is not None and os.sep in user.plugin.command:  # a bare name is looked up in PATH
        command = _absolute(folder, user.plugin.command)
        update["plugin"] = user.plugin.model_copy(update={"command": command})
    return user.model_copy(update=update)


def _absolute(folder: Path, path: str) -> str:
    return str(folder / path) if path else ""
