"""The settings of the program: one frozen tree, built once at the start and passed on as a whole or by group.

The value of ``database.url`` comes from the environment variable ``DATASTORAGE_DATABASE_URL``, otherwise from
a file of that name in the secrets directory; the other settings are named in the same way. The file of a
secret may change later: see secrets.py.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from datastorage.errors import ConfigurationError
from datastorage.files import read_secret, secret_file
from datastorage.servicelinks import is_service_link
from datastorage.settingsgroups import (
    ApiSettings,
    DatabaseSettings,
    EmbeddingSettings,
    Group,
    IntakeSettings,
    LogSettings,
    Port,
    ReadSettings,
    ThesaurusSettings,
    TlsSettings,
    Url,
    VectorSettings,
)
from datastorage.variables import CLIENT_VARIABLES, PREFIX

SECRETS_DIR_VARIABLE: Final = "DATASTORAGE_SECRETS_DIR"
EMBEDDED_DIR_VARIABLE: Final = "DATASTORAGE_EMBEDDED_DIR"
# Variables of the program that are not settings of the service.
_OTHER_VARIABLES: Final = frozenset({SECRETS_DIR_VARIABLE, EMBEDDED_DIR_VARIABLE, *CLIENT_VARIABLES})
# Variables that only the tests read.
_TEST_PREFIX: Final = "DATASTORAGE_TEST_"
# Only names are allowed: Kopf would treat "team-*" as a pattern, but the lists of the sweep would not.
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_SHARDS: Final = 16
DEFAULT_SECRETS_DIR: Final = "/etc/datastorage/secrets"
DEFAULT_EMBEDDED_DIR: Final = "~/.local/share/kubernaut-datastorage/postgres"


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def _namespace(name: str) -> str:
    if _NAMESPACE.fullmatch(name) is None:
        raise PydanticCustomError("namespace", "{name} is not the name of a namespace", {"name": repr(name)})
    return name


_Namespace = Annotated[str, AfterValidator(_namespace)]


class Settings(BaseModel):
    """All settings. The table in the documentation is generated from the descriptions."""

    model_config = ConfigDict(frozen=True)

    # The directory of each setting's file, for the settings that the environment does not set.
    _directories: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    database: DatabaseSettings = DatabaseSettings()
    read: ReadSettings = ReadSettings()
    vector: VectorSettings = VectorSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    redis_url: Url | None = Field(
        default=None,
        description="URL of the Redis that caches vectors. Without it only the process's memory caches them.",
    )
    thesaurus: ThesaurusSettings = ThesaurusSettings()
    namespaces: Annotated[tuple[_Namespace, ...], BeforeValidator(_split)] = Field(
        default=(), description="Namespaces to serve, separated by commas. Empty: all."
    )
    lease_namespace: Annotated[str, AfterValidator(_namespace)] | None = Field(
        default=None,
        description="Namespace of the Leases with which the replicas agree on who processes the cluster's "
        "objects; the manifests set it to the operator's own. Without it there are no Leases, and every "
        "process does all the work.",
    )
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = Field(
        default=1,
        description="Ranges that the objects are divided into by their uids, each with a Lease of its own. "
        "More than one lets several replicas share the work. Each shard that a replica holds takes memory.",
    )
    ttl_seconds_after_stored: Annotated[int, Field(ge=0, le=315_360_000)] = Field(
        default=3600,
        description="Seconds that a stored object stays in the cluster, unless its own "
        "`spec.ttlSecondsAfterStored` says otherwise. 0: it is deleted at once, without a status.",
    )
    recorded_by_policy: bool = Field(
        default=False,
        description="Whether authors are taken from the annotation that the policy of "
        "`manifests/components/recorded-by` writes. The component sets this. Otherwise authors are unknown, "
        "except those of records that come over HTTP.",
    )
    api: ApiSettings = ApiSettings()
    tls: TlsSettings = TlsSettings()
    metrics_port: Port = Field(default=9090, description="Port of `/metrics`.")
    listen_address: str = Field(
        default="",
        description="Addresses or host names that both ports listen on, separated by commas. Empty, or `::`: "
        "all, of IPv4 and IPv6; `0.0.0.0`: all of IPv4 alone.",
    )
    log: LogSettings = LogSettings()
    intake: IntakeSettings = IntakeSettings()
    status_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16,
        description="Status writes to the API server under way at once, for each kind.",
    )
    delete_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        default=8, description="Deletions at the API server under way at once, for each kind."
    )
    sweep_interval_seconds: Annotated[int, Field(ge=5)] = Field(
        default=300,
        description="Seconds between sweeps over the unstored objects when nothing asks for one earlier.",
    )
    gc_interval_seconds: Annotated[int, Field(ge=5)] = Field(
        default=3600, description="Seconds between listings of the stored objects by the garbage collector."
    )
    shutdown_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        default=20,
        description="Seconds that a stop may take to store what was taken in and write its status. The pod's "
        "`terminationGracePeriodSeconds` has to be 30 s longer.",
    )

    def value_of(self, name: str) -> Any:
        """Return a setting by the name of its variable in lower case, without the prefix."""
        group, field = _PLACES[name]
        return getattr(self if group is None else getattr(self, group), field)

    def require_database_url(
        self, otherwise: str = "to try the operator out, use 'datastorage run --embedded'"
    ) -> str:
        """Return the service's URL. Raises ConfigurationError when it is not set.

        ``otherwise`` says what may be done instead of setting it.
        """
        url = self.database.url.get_secret_value()
        if not url:
            raise ConfigurationError(
                f"{PREFIX}DATABASE_URL is not set: give the PostgreSQL URL of the service role (to read, "
                f"that of a member of datastorage_reader is enough); {otherwise}"
            )
        return url

    def require_owner_url(self) -> str:
        """Return the owner's URL, or else the service's. Raises ConfigurationError when neither is set."""
        owner = self.database.owner_url or self.database.url
        url = owner.get_secret_value()
        if not url:
            raise ConfigurationError(
                f"{PREFIX}DATABASE_OWNER_URL is not set: give the PostgreSQL URL of the role that is to own "
                f"the schema (without it {PREFIX}DATABASE_URL is used, which is not set either)"
            )
        return url

    def directory_of(self, name: str) -> Path | None:
        """Return the directory of the file that may hold a setting's value; None if no file can set it."""
        return self._directories.get(name)

    def replaced(self, values: Mapping[str, Any]) -> "Settings":
        """Return settings with other values, named as for ``value_of``. Files can't change those values."""
        update: dict[str, Any] = {}
        for name, value in values.items():
            group, field = _PLACES[name]
            if group is None:
                update[field] = value
            else:
                update[group] = update.get(group, getattr(self, group)).model_copy(update={field: value})
        other = self.model_copy(update=update)
        other._directories = {n: path for n, path in self._directories.items() if n not in values}  # noqa: SLF001  # a copy of ours
        return other


def setting_fields() -> Iterator[tuple[str | None, str, FieldInfo]]:
    """Yield the group, the name and the field of every setting."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Group):
            for inner, inner_field in type(field.default).model_fields.items():
                yield name, inner, inner_field
        else:
            yield None, name, field


# The group and the field of each setting, by the name of its variable in lower case, without the prefix.
_PLACES: Final = {
    name if group is None else f"{group}_{name}": (group, name) for group, name, _ in setting_fields()
}


def setting_names() -> list[str]:
    """Return the names of all variables that are settings, in the order of the documentation."""
    return [f"{PREFIX}{name.upper()}" for name in _PLACES]


def load_settings() -> Settings:
    """Read the settings. Raises ConfigurationError: one line that names the wrong setting and says why."""
    refuse_unknown_variables()
    directory = Path(os.environ.get(SECRETS_DIR_VARIABLE, DEFAULT_SECRETS_DIR))
    given = _variables()
    files = _read_files(directory) if directory.is_dir() else {}
    try:
        settings = Settings.model_validate(_tree({**files, **given}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # The location may continue within the setting's value, so only its beginning names the setting.
        names = ["_".join(map(str, first["loc"][:length])) for length in (1, 2)]
        name = PREFIX + next(name for name in names if name in _PLACES).upper()
        raise ConfigurationError(f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    settings._directories = {name: directory for name in _PLACES if name not in given}  # noqa: SLF001  # made here
    return settings


def _tree(values: Mapping[str, str]) -> dict[str, Any]:
    """Return values, by the names in ``_PLACES``, as the tree of the settings."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        group, field = _PLACES[name]
        (tree if group is None else tree.setdefault(group, {}))[field] = value
    return tree


def _variables() -> dict[str, str]:
    """Return the values of the environment, without the variables that Kubernetes sets for a Service."""
    known = dict(zip(setting_names(), _PLACES, strict=True))
    named = ((name.upper(), value) for name, value in os.environ.items())
    return {known[name]: value for name, value in named if name in known and not is_service_link(name, value)}


def _read_files(directory: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    for place, name in zip(_PLACES, setting_names(), strict=True):
        path = secret_file(directory, name)
        if path is None:
            continue
        try:
            values[place] = read_secret(path)
        except OSError as error:
            raise ConfigurationError(f"{name}: its file {path} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{name}: its file {path} is not text in UTF-8") from error
    return values


def refuse_unknown_variables() -> None:
    """Raise ConfigurationError for a misspelled setting: otherwise its default would apply unnoticed."""
    known = {*setting_names(), *_OTHER_VARIABLES}
    for name, value in sorted(os.environ.items()):
        if not name.startswith(PREFIX) or name.startswith(_TEST_PREFIX):
            continue
        if name not in known and not is_service_link(name, value):
            raise ConfigurationError(f"{name} is not a setting: {_hint(name)}")


def _hint(name: str) -> str:
    """Return a setting that the name may stand for, or where the settings are listed."""
    typed = name.removeprefix(PREFIX)  # with the prefix, all names would be alike
    known = [other.removeprefix(PREFIX) for other in (*setting_names(), *sorted(_OTHER_VARIABLES))]
    begun = [other for other in known if len(typed) > 2 and other.startswith(typed)]
    close = begun or difflib.get_close_matches(typed, known, n=1)
    return f"did you mean {PREFIX}{close[0]}?" if close else "'datastorage settings' lists them"


def ignored_variables() -> list[str]:
    """Return the settings whose variables are ignored, because Kubernetes has set them for a Service."""
    return sorted(name for name in setting_names() if is_service_link(name, os.environ.get(name, "")))
