"""The groups of settings whose names begin with the same word, and the types that their values share."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

MAX_DIMENSIONS: Final = 2000
"""Numbers in one vector at most: the limit of pgvector's index."""

Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]


def _stripped(value: Any) -> Any:
    """Remove the line break that an editor or echo adds."""
    return value.strip() if isinstance(value, str) else value


Url = Annotated[SecretStr, BeforeValidator(_stripped)]


class Group(BaseModel):
    """Settings whose names begin with the same word."""

    model_config = ConfigDict(frozen=True)


class DatabaseSettings(Group):
    """The PostgreSQL database of the records."""

    url: Url = Field(
        default=SecretStr(""),
        description="PostgreSQL URL of the service role, `postgresql://user:password@host:port/name`.",
    )
    owner_url: Url | None = Field(
        default=None,
        description="PostgreSQL URL of the role that owns the schema. Only `migrate` and `reindex` use it; "
        "without it they use the service's URL.",
    )
    pool_size: Annotated[int, Field(ge=5, le=100)] = Field(
        default=8, description="Most connections to PostgreSQL open at once, per replica."
    )
    statement_cache: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether prepared statements are kept. `auto`: on a direct connection to PostgreSQL, and "
        "not through a pooler such as PgBouncer. `on`: always; for a pooler in session mode, or one that "
        "follows prepared statements. `off`: never.",
    )


class ReadSettings(Group):
    """A copy of the database for the questions of the REST API."""

    database_url: Url | None = Field(
        default=None,
        description="PostgreSQL URL of a streaming standby of the records' database, which then answers the "
        "questions of the REST API. The role may be the service's, or a member of `datastorage_reader`.",
    )


class VectorSettings(Group):
    """The database of the vectors, and the memory for their indexes."""

    database_url: Url | None = Field(
        default=None,
        description="PostgreSQL URL of the service role on another server that keeps the vectors. "
        "Without it they are kept beside the records, and written in the same transaction.",
    )
    database_owner_url: Url | None = Field(
        default=None,
        description="PostgreSQL URL of the role that owns the vectors' schema there. Only `migrate` uses it.",
    )
    index_memory_mib: Annotated[int, Field(ge=16, le=65_536)] = Field(
        default=256,
        description="MiB that the vectors' PostgreSQL may use while it builds one index. With more, fewer "
        "and larger indexes make a search over millions of vectors quicker.",
    )


class EmbeddingSettings(Group):
    """The provider that makes vectors of texts, and the cache of its vectors."""

    provider: Literal["wordllama", "onnx", "openai", "none"] = Field(
        default="wordllama",
        description="What makes vectors of texts. `wordllama`: a small model inside the program, nothing "
        "leaves it. `onnx`: a sentence model of yours inside the program, nothing leaves it either. "
        "`openai`: any service with an OpenAI-compatible `/v1/embeddings`. `none`: no vectors, no search by "
        "meaning.",
    )
    url: str = Field(
        default="",
        description="Base URL of the service for `openai`, with the version: `https://host/v1`.",
    )
    model: Annotated[str, Field(max_length=200)] = Field(
        default="",
        description="Name of the model. Needed for `openai`. For `onnx`, the name of its directory if empty; "
        "`wordllama` has one model.",
    )
    model_dir: str = Field(
        default="",
        description="Directory with the sentence model for `onnx`: `tokenizer.json` and `model.onnx`.",
    )
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] = Field(
        default=256,
        description="Numbers in one vector of the model, 2,000 at most; 256 for `wordllama`. Leave it out "
        "for `onnx`, whose model says it.",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token for the service. Best given as a file of a mounted Secret.",
    )
    batch_size: Annotated[int, Field(ge=1, le=2048)] = Field(
        default=128,
        description="Texts in one request to the service, at most. Lower it when the service takes fewer. "
        "Also the texts that `onnx` computes at once, at most.",
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        default=10.0,
        description="Seconds that the service may take for one request, or `onnx` for one batch. The write "
        "path waits 2 s at most and leaves what takes longer to the backfill.",
    )
    threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Threads that compute the vectors of `onnx`: no more than the pod has CPUs."
    )
    background: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether vectors are made in the background, after their records are stored. `auto`: "
        "with `onnx`. `on`: always; for a service that often takes longer than 2 s. `off`: never, so that a "
        "record and its vector are written together; for a quick model.",
    )
    cache_ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=300, description="Seconds that a cached vector lives in Redis after it was made."
    )


class ThesaurusSettings(Group):
    """The synonyms that a search by words knows."""

    enabled: bool = Field(
        default=True,
        description="Whether a search by words knows synonyms: `out of memory` then finds `OOMKilled`.",
    )
    file: str = Field(
        default="",
        description="TOML file with further groups of synonyms, which may also replace those of the program "
        "or leave them out. It is read at the start.",
    )


class LogSettings(Group):
    """The level and the form of the log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level that is logged: DEBUG, INFO, WARNING or ERROR."
    )
    format: Literal["json", "text"] = Field(
        default="json", description="Form of the log. `json`: one JSON object a line. `text`: for people."
    )


class ApiSettings(Group):
    """The REST API, on the port that also serves the probes."""

    port: Port = Field(default=8080, description="Port of the REST API, of `/health` and of `/ready`.")
    authentication: Literal["kubernetes", "none"] = Field(
        default="kubernetes",
        description="The callers that may use the REST API. `kubernetes`: those with a token that the API "
        "server accepts, each with its own rights in the cluster. `none`: everybody may do everything; "
        "only with a `DATASTORAGE_LISTEN_ADDRESS` that nothing but this machine reaches.",
    )
    audience: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="datastorage",
        description="The audience that the callers' tokens must be for, as in `kubectl create token NAME "
        "--audience datastorage`.",
    )
    fallback: Literal["none", "custom-resource"] = Field(
        default="none",
        description="The answer to a record that comes while PostgreSQL is away. `none`: 503. "
        "`custom-resource`: a single record with an `Idempotency-Key`, and without a name or uid of its own, "
        "is created as a custom resource and answered with 202; all others get 503. Needs the rights of "
        "`manifests/components/api-fallback`, which also sets this.",
    )
    fallback_max: Positive = Field(
        default=1000,
        description="Custom resources that this process has created for requests and that are not stored "
        "yet, at most; beyond it, 503.",
    )
    requests_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=2000,
        description="Requests a second of one identity, per replica; further ones are refused with 429. Five "
        "records of a batch count as a request.",
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=4000, description="Requests that an identity may send at once after it has been quiet."
    )


class TlsSettings(Group):
    """TLS on the port of the API."""

    dir: str = Field(
        default="",
        description="Directory with the certificate (`tls.crt`) and key (`tls.key`) of the REST API, as in a "
        "mounted Secret of the type `kubernetes.io/tls`. The API port then speaks TLS, 1.2 or later, and "
        "nothing else; changed files are used without a restart. Empty: plain HTTP.",
    )


class IntakeSettings(Group):
    """The limits on records that wait in memory to be stored."""

    max_items: Positive = Field(
        default=5000,
        description="Records waiting to be stored, at most; each kind has half of the room. More wait in the "
        "cluster.",
    )
    max_bytes: Annotated[int, Field(ge=1_048_576)] = Field(
        default=33_554_432,
        description="Bytes of the records waiting to be stored, at most; each kind has half of the room.",
    )
