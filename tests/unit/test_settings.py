"""Settings: their defaults, their sources, and a readable line for each wrong one."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from datastorage.cli.settingstable import settings_table
from datastorage.errors import ConfigurationError
from datastorage.settings import load_settings, setting_names

DEFAULTS = {
    "database": {
        "url": SecretStr(""),
        "owner_url": None,
        "pool_size": 8,
        "statement_cache": "auto",
    },
    "read": {"database_url": None},
    "vector": {
        "database_url": None,
        "database_owner_url": None,
        "index_memory_mib": 256,
    },
    "embedding": {
        "provider": "wordllama",
        "url": "",
        "model": "",
        "model_dir": "",
        "dimensions": 256,
        "api_key": SecretStr(""),
        "batch_size": 128,
        "timeout_seconds": 10.0,
        "threads": 1,
        "background": "auto",
        "cache_ttl_seconds": 300,
    },
    "redis_url": None,
    "thesaurus": {"enabled": True, "file": ""},
    "namespaces": (),
    "lease_namespace": None,
    "shards": 1,
    "ttl_seconds_after_stored": 3600,
    "recorded_by_policy": False,
    "api": {
        "port": 8080,
        "authentication": "kubernetes",
        "audience": "datastorage",
        "fallback": "none",
        "fallback_max": 1000,
        "requests_per_second": 2000,
        "burst": 4000,
    },
    "tls": {"dir": ""},
    "metrics_port": 9090,
    "listen_address": "",
    "log": {"level": "INFO", "format": "json"},
    "intake": {"max_items": 5000, "max_bytes": 33_554_432},
    "status_concurrency": 16,
    "delete_concurrency": 8,
    "sweep_interval_seconds": 300,
    "gc_interval_seconds": 3600,
    "shutdown_seconds": 20,
}
# The names that manifests and people's environments have.
NAMES = [
    "DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_POOL_SIZE", "DATABASE_STATEMENT_CACHE",
    "READ_DATABASE_URL", "VECTOR_DATABASE_URL", "VECTOR_DATABASE_OWNER_URL", "VECTOR_INDEX_MEMORY_MIB",
    "EMBEDDING_PROVIDER", "EMBEDDING_URL", "EMBEDDING_MODEL", "EMBEDDING_MODEL_DIR", "EMBEDDING_DIMENSIONS",
    "EMBEDDING_API_KEY", "EMBEDDING_BATCH_SIZE", "EMBEDDING_TIMEOUT_SECONDS", "EMBEDDING_THREADS",
    "EMBEDDING_BACKGROUND", "EMBEDDING_CACHE_TTL_SECONDS", "REDIS_URL", "THESAURUS_ENABLED",
    "THESAURUS_FILE",
    "NAMESPACES", "LEASE_NAMESPACE", "SHARDS", "TTL_SECONDS_AFTER_STORED", "RECORDED_BY_POLICY", "API_PORT",
    "API_AUTHENTICATION",
    "API_AUDIENCE", "API_FALLBACK", "API_FALLBACK_MAX", "API_REQUESTS_PER_SECOND", "API_BURST", "TLS_DIR",
    "METRICS_PORT", "LISTEN_ADDRESS",
    "LOG_LEVEL", "LOG_FORMAT", "INTAKE_MAX_ITEMS", "INTAKE_MAX_BYTES", "STATUS_CONCURRENCY",
    "DELETE_CONCURRENCY", "SWEEP_INTERVAL_SECONDS", "GC_INTERVAL_SECONDS", "SHUTDOWN_SECONDS",
]  # fmt: skip
# A value of each that is not its default.
OTHERS = {
    "DATABASE_POOL_SIZE": "9", "DATABASE_STATEMENT_CACHE": "off", "VECTOR_INDEX_MEMORY_MIB": "64",
    "EMBEDDING_PROVIDER": "none", "EMBEDDING_DIMENSIONS": "12", "EMBEDDING_BATCH_SIZE": "7",
    "THESAURUS_ENABLED": "False",
    "EMBEDDING_TIMEOUT_SECONDS": "2.5", "EMBEDDING_CACHE_TTL_SECONDS": "60", "NAMESPACES": "shop",
    "SHARDS": "3", "TTL_SECONDS_AFTER_STORED": "0", "RECORDED_BY_POLICY": "True", "API_PORT": "1",
    "API_AUTHENTICATION": "none", "API_FALLBACK": "custom-resource", "API_FALLBACK_MAX": "5",
    "METRICS_PORT": "2", "LOG_LEVEL": "ERROR", "API_REQUESTS_PER_SECOND": "7.5", "API_BURST": "9",
    "LOG_FORMAT": "text", "INTAKE_MAX_ITEMS": "10", "INTAKE_MAX_BYTES": "2000000",
    "STATUS_CONCURRENCY": "3", "DELETE_CONCURRENCY": "4", "SWEEP_INTERVAL_SECONDS": "30",
    "GC_INTERVAL_SECONDS": "31", "SHUTDOWN_SECONDS": "5", "EMBEDDING_THREADS": "2",
    "EMBEDDING_BACKGROUND": "on",
}  # fmt: skip


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty secrets directory, and no settings of the machine."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_the_defaults() -> None:
    assert load_settings().model_dump() == DEFAULTS


def test_no_name_changes() -> None:
    assert setting_names() == [f"DATASTORAGE_{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["environment", "file", "file in small letters"])
def test_each_setting_is_read(monkeypatch: pytest.MonkeyPatch, secrets: Path, name: str, place: str) -> None:
    given = OTHERS.get(name, "said")
    if place == "environment":
        monkeypatch.setenv(f"DATASTORAGE_{name}", given)
    else:
        variable = f"DATASTORAGE_{name}"
        (secrets / (variable if place == "file" else variable.lower())).write_text(f"{given}\n")
    value = load_settings().value_of(name.lower())
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    assert (value[0] if isinstance(value, tuple) else str(value)) == given


def test_other_files_in_the_secrets_directory_are_ignored(secrets: Path) -> None:
    (secrets / "keystore.p12").write_bytes(b"\xff\xfe")
    (secrets / "DATASTORAGE_DATABASE").write_text("no JSON")
    (secrets / "DATASTORAGE_LOG_LEVEL").mkdir()
    (secrets / "DATASTORAGE_LOG_FORMAT").symlink_to(Path(__file__))
    assert load_settings().model_dump() == DEFAULTS


def test_a_file_that_is_no_text_is_named(secrets: Path) -> None:
    (secrets / "DATASTORAGE_REDIS_URL").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"^DATASTORAGE_REDIS_URL: its file .* is not text"):
        load_settings()


def test_a_file_that_is_far_too_large_is_named(secrets: Path) -> None:
    with (secrets / "DATASTORAGE_REDIS_URL").open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(ConfigurationError, match=r"^DATASTORAGE_REDIS_URL: its file .* can't be read: "):
        load_settings()


def test_other_values_leave_the_rest_of_a_group() -> None:
    before = load_settings()
    after = before.replaced(
        {"database_url": SecretStr("one"), "database_owner_url": SecretStr("two"), "api_port": 1}
    )
    assert after.database == before.database.model_copy(
        update={"url": SecretStr("one"), "owner_url": SecretStr("two")}
    )
    assert (after.api.port, after.embedding) == (1, before.embedding)
    assert before.model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_POOL_SIZE", "1"),
        ("DATABASE_POOL_SIZE", "many"),
        ("TTL_SECONDS_AFTER_STORED", "-1"),
        ("TTL_SECONDS_AFTER_STORED", "1h"),
        ("API_PORT", "0"),
        ("API_PORT", "65536"),
        ("METRICS_PORT", ""),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("INTAKE_MAX_ITEMS", "0"),
        ("INTAKE_MAX_BYTES", "1000"),
        ("STATUS_CONCURRENCY", "0"),
        ("DELETE_CONCURRENCY", "1000"),
        ("SWEEP_INTERVAL_SECONDS", "1"),
        ("GC_INTERVAL_SECONDS", "0.5"),
        ("SHUTDOWN_SECONDS", "0"),
        ("EMBEDDING_PROVIDER", "magic"),
        ("EMBEDDING_DIMENSIONS", "2001"),
        ("EMBEDDING_BATCH_SIZE", "0"),
        ("EMBEDDING_TIMEOUT_SECONDS", "0"),
        ("EMBEDDING_THREADS", "0"),
        ("EMBEDDING_BACKGROUND", "sometimes"),
        ("EMBEDDING_CACHE_TTL_SECONDS", "0"),
        ("VECTOR_INDEX_MEMORY_MIB", "1"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DATASTORAGE_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"DATASTORAGE_{name}: ")
    assert "\n" not in message
    assert len(message) > len(f"DATASTORAGE_{name}: ") + 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("shop", ("shop",)), (" shop , pay,,", ("shop", "pay")), (" , ", ())],
)
def test_namespaces_are_a_list_of_names(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", text)
    assert load_settings().namespaces == expected


def test_settings_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().api.port = 1


def test_a_secret_may_come_from_a_file_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    (secrets / "DATASTORAGE_DATABASE_URL").write_text("postgresql://file\n")
    assert load_settings().require_database_url() == "postgresql://file"
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", "postgresql://environment")
    assert load_settings().require_database_url() == "postgresql://environment"


def test_a_missing_secrets_directory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", "/absent")
    assert load_settings().api.port == 8080


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", "postgresql://user:hunter2@host/name")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())


def test_a_missing_database_url_says_what_to_do() -> None:
    with pytest.raises(
        ConfigurationError, match="DATASTORAGE_DATABASE_URL is not set: give the PostgreSQL URL"
    ):
        load_settings().require_database_url()
    with pytest.raises(ConfigurationError, match=r"enough\); or do without$"):
        load_settings().require_database_url("or do without")


def test_every_setting_has_a_description() -> None:
    """tests/unit/test_docs.py holds the documented table."""
    assert "None |\n" not in settings_table()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATASTORAGE_TTL_SECONDS", "DATASTORAGE_TTL_SECONDS_AFTER_STORED"),
        ("DATASTORAGE_DATABSE_URL", "DATASTORAGE_DATABASE_URL"),
        ("DATASTORAGE_NAMESPACE", "DATASTORAGE_NAMESPACES"),
        ("DATASTORAGE_EMBEDED_DIR", "DATASTORAGE_EMBEDDED_DIR"),
    ],
)
def test_a_misspelled_setting_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=f"^{name} is not a setting: did you mean {meant}"):
        load_settings()


@pytest.mark.parametrize("name", ["DATASTORAGE_FOO", "DATASTORAGE_HOST", "DATASTORAGE_", "DATASTORAGE_T"])
def test_a_name_that_resembles_no_setting_is_refused_without_a_guess(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        ConfigurationError, match=f"^{name} is not a setting: 'datastorage settings' lists them$"
    ):
        load_settings()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("Foo_", "Foo_"), ("shop,team-*", "team-*"), ("shop, a b", "a b"), ("x" * 64, "x" * 64)],
)
def test_a_wrong_namespace_is_named(monkeypatch: pytest.MonkeyPatch, text: str, wrong: str) -> None:
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == f"DATASTORAGE_NAMESPACES: {wrong!r} is not the name of a namespace"


def test_namespaces_are_names_and_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", "shop,pay,shop")
    assert load_settings().namespaces == ("shop", "pay")
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", "team-*")
    with pytest.raises(ConfigurationError, match=r"^DATASTORAGE_NAMESPACES: "):
        load_settings()


def test_white_space_around_a_url_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", " postgresql://user:x@host/name\n")
    assert load_settings().require_database_url() == "postgresql://user:x@host/name"
