"""The settings of the program: one frozen tree, built once at the start and handed down.

Each comes from the environment (``DATASTORAGE_`` and the name in capitals) or from a file of that name in
the secrets directory; the environment wins. A secret's file may say something else later: see secrets.py.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from datastorage.errors import ConfigurationError

PREFIX: Final = "DATASTORAGE_"
_SECRETS_DIR_VARIABLE: Final = "DATASTORAGE_SECRETS_DIR"
# Not settings of the service, but ours.
_OTHER_VARIABLES: Final = frozenset({_SECRETS_DIR_VARIABLE, "DATASTORAGE_EMBEDDED_DIR"})
# What only the tests read.
_TEST_PREFIX: Final = "DATASTORAGE_TEST_"
# What Kubernetes adds to the pods of a namespace for each Service in it whose name begins with "datastorage":
# its address, the numbers of its ports, and the ports again in the form of Docker's links.
_SERVICE_LINK: Final = re.compile(
    r"DATASTORAGE(_.*)?_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# One of them may have the name of a setting, as DATASTORAGE_API_PORT of a Service datastorage-api has: its
# value is such a URL, and the setting's is a number.
_PORT_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")
_DEFAULT_SECRETS_DIR: Final = "/etc/datastorage/secrets"

_Port = Annotated[int, Field(ge=1, le=65535)]
# A name, not a pattern: Kopf would take "team-*" for one, and the lists of the sweep would not.
_Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
_Positive = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """All settings. The descriptions make the table in docs/reference/configuration.md."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # Where each setting's file is or would be that the environment does not override.
    _directories: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # no such file is read
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment without what Kubernetes has put there, and then the files."""
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value
                for name, value in env_settings.env_vars.items()
                if not _is_service_link(name.upper(), value or "")
            }
        return init_settings, env_settings, file_secret_settings

    database_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL URL of the service role, `postgresql://user:password@host:port/name`.",
    )
    database_owner_url: SecretStr | None = Field(
        None,
        description="PostgreSQL URL of the role that owns the schema. Only `migrate` uses it; "
        "without it `migrate` uses the service's URL.",
    )
    database_pool_size: Annotated[int, Field(ge=5, le=100)] = Field(
        8, description="Most connections to PostgreSQL open at once, per replica."
    )
    database_statement_cache: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether prepared statements are kept. `auto`: on a direct connection to PostgreSQL, and "
        "not through a pooler such as PgBouncer. `on`: always; for a pooler in session mode, or one that "
        "follows prepared statements. `off`: never.",
    )
    vector_database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL URL of the service role on another server that keeps the vectors. "
        "Without it they are kept beside the records, and written in the same transaction.",
    )
    vector_database_owner_url: SecretStr | None = Field(
        None,
        description="PostgreSQL URL of the role that owns the vectors' schema there. Only `migrate` uses it.",
    )
    embedding_provider: Literal["wordllama", "openai", "none"] = Field(
        "wordllama",
        description="What makes vectors of texts. `wordllama`: a small model inside the program, nothing "
        "leaves it. `openai`: any service with an OpenAI-compatible `/v1/embeddings`. `none`: no vectors, no "
        "search by meaning.",
    )
    embedding_url: str = Field(
        "",
        description="Base URL of the service for `openai`, with the version: `https://host/v1`.",
    )
    embedding_model: Annotated[str, Field(max_length=200)] = Field(
        "", description="Name of the model. Needed for `openai`; `wordllama` has one model."
    )
    embedding_dimensions: Annotated[int, Field(ge=1, le=2000)] = Field(
        256, description="Numbers in one vector of the model, 2,000 at most; 256 for `wordllama`."
    )
    embedding_api_key: SecretStr = Field(
        SecretStr(""), description="Bearer token for the service. Best given as a file of a mounted Secret."
    )
    embedding_batch_size: Annotated[int, Field(ge=1, le=2048)] = Field(
        128,
        description="Texts in one request to the service, at most. Lower it when the service takes fewer.",
    )
    embedding_timeout_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        10.0,
        description="Seconds that the service may take for one request. The write path waits 2 s at most "
        "and leaves what takes longer to the backfill.",
    )
    redis_url: SecretStr | None = Field(
        None, description="URL of the Redis that caches vectors. Without it only the process's memory does."
    )
    embedding_cache_ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        300, description="Seconds that a cached vector lives in Redis after it was made."
    )
    vector_index_memory_mib: Annotated[int, Field(ge=16, le=65_536)] = Field(
        256,
        description="MiB that the vectors' PostgreSQL may use while it builds one index. With more, fewer "
        "and larger indexes make a search over millions of vectors quicker.",
    )
    namespaces: Annotated[tuple[_Namespace, ...], NoDecode] = Field(
        (), description="Namespaces to serve, separated by commas. Empty: all."
    )
    ttl_seconds_after_stored: Annotated[int, Field(ge=0, le=315_360_000)] = Field(
        3600,
        description="Seconds that a stored object stays in the cluster, unless its own "
        "`spec.ttlSecondsAfterStored` says otherwise. 0: it is deleted at once, without a status.",
    )
    api_port: _Port = Field(8080, description="Port of `/health` and `/ready`.")
    metrics_port: _Port = Field(9090, description="Port of `/metrics`.")
    listen_address: str = Field(
        "",
        description="Addresses or host names that both ports listen on, separated by commas. Empty, or `::`: "
        "all, of IPv4 and IPv6; `0.0.0.0`: all of IPv4 alone.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")
    log_format: Literal["json", "text"] = Field(
        "json", description="Form of the log: one JSON object a line, or text."
    )
    intake_max_items: _Positive = Field(
        5000, description="Records waiting to be stored, at most. More wait in the cluster."
    )
    intake_max_bytes: Annotated[int, Field(ge=1_048_576)] = Field(
        33_554_432, description="Bytes of the records waiting to be stored, at most."
    )
    status_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        16, description="Status writes to the API server under way at once."
    )
    delete_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="Deletions at the API server under way at once."
    )
    sweep_interval_seconds: Annotated[int, Field(ge=5)] = Field(
        300, description="Seconds between sweeps over the unstored objects when nothing asks for one earlier."
    )
    gc_interval_seconds: Annotated[int, Field(ge=5)] = Field(
        3600, description="Seconds between listings of the stored objects by the garbage collector."
    )
    shutdown_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        20,
        description="Seconds that a stop may take to store and announce what was taken in. The pod's "
        "`terminationGracePeriodSeconds` has to be 25 s longer.",
    )

    @field_validator(
        "database_url", "database_owner_url", "vector_database_url", "vector_database_owner_url", "redis_url",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _strip(cls, value: Any) -> Any:
        """Leave out what an editor or echo puts behind a line."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))

    def require_database_url(self) -> str:
        """Return the service's URL. Raises ConfigurationError when it is not set."""
        url = self.database_url.get_secret_value()
        if not url:
            raise ConfigurationError(
                f"{PREFIX}DATABASE_URL is not set: give the PostgreSQL URL of the service role, "
                "for reading that of a member of datastorage_reader; or try the operator out with "
                "'datastorage run --embedded'"
            )
        return url

    def __eq__(self, other: object) -> bool:
        """Settings that say the same are equal, wherever they come from."""
        return isinstance(other, Settings) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(tuple(self.model_dump().values()))

    def directory_of(self, name: str) -> Path | None:
        """Return the directory of the file that has a setting's value; None where no file has a say in it."""
        return self._directories.get(name)

    def replaced(self, values: Mapping[str, Any]) -> "Settings":
        """Return settings with other values, in which no file has a say."""
        other = self.model_copy(update=dict(values))
        other._directories = {n: path for n, path in self._directories.items() if n not in values}  # noqa: SLF001  # a copy of ours
        return other


def load_settings() -> Settings:
    """Read the settings. Raises ConfigurationError: one line that names the wrong setting and says why."""
    _refuse_unknown_variables()
    directory = Path(os.environ.get(_SECRETS_DIR_VARIABLE, _DEFAULT_SECRETS_DIR))
    sources: dict[str, Any] = {"_secrets_dir": directory} if directory.is_dir() else {}
    try:
        settings = Settings(**sources)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper()  # what follows is a place within the value
        raise ConfigurationError(f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    given = {  # as they are looked up
        name.lower() for name, value in os.environ.items() if not _is_service_link(name.upper(), value)
    }
    settings._directories = {  # noqa: SLF001  # made here
        name: directory for name in Settings.model_fields if f"{PREFIX}{name}".lower() not in given
    }
    return settings


def _refuse_unknown_variables() -> None:
    """A misspelled setting would leave its default in force, unnoticed."""
    known = _setting_names() | _OTHER_VARIABLES
    for name, value in sorted(os.environ.items()):
        if not name.startswith(PREFIX) or name.startswith(_TEST_PREFIX):
            continue
        if name not in known and not _is_service_link(name, value):
            alike = [other for other in known if other.startswith(name[: len(PREFIX) + 4])]
            hint = max(alike or known, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
            raise ConfigurationError(f"{name} is not a setting: did you mean {hint}?")


def ignored_variables() -> list[str]:
    """Return the settings whose variables Kubernetes has set for a Service, so that they are not read."""
    return sorted(name for name in _setting_names() if _is_service_link(name, os.environ.get(name, "")))


def _setting_names() -> set[str]:
    return {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def _is_service_link(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _PORT_URL.fullmatch(value):
        return True
    return _SERVICE_LINK.fullmatch(name) is not None


def settings_table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| Setting | Default | Meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = "" if isinstance(default, SecretStr) or default in {None, (), ""} else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    lines += [
        f"| `{_SECRETS_DIR_VARIABLE}` | `{_DEFAULT_SECRETS_DIR}` | Directory of files named like settings. |",
        "| `DATASTORAGE_EMBEDDED_DIR` | | Where `run --embedded` keeps its data. |",
    ]
    return "\n".join(lines) + "\n"
