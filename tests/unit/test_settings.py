"""Settings: the defaults, where they come from, and a readable line for each wrong one."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from datastorage.errors import ConfigurationError
from datastorage.settings import Settings, load_settings

DEFAULTS = {
    "database_url": SecretStr(""),
    "database_owner_url": None,
    "database_pool_size": 8,
    "database_statement_cache": "auto",
    "vector_database_url": None,
    "vector_database_owner_url": None,
    "embedding_provider": "wordllama",
    "embedding_url": "",
    "embedding_model": "",
    "embedding_dimensions": 256,
    "embedding_api_key": SecretStr(""),
    "embedding_batch_size": 128,
    "embedding_timeout_seconds": 10.0,
    "redis_url": None,
    "embedding_cache_ttl_seconds": 300,
    "vector_index_memory_mib": 256,
    "namespaces": (),
    "ttl_seconds_after_stored": 3600,
    "api_port": 8080,
    "metrics_port": 9090,
    "listen_address": "",
    "log_level": "INFO",
    "log_format": "json",
    "intake_max_items": 5000,
    "intake_max_bytes": 33_554_432,
    "status_concurrency": 16,
    "delete_concurrency": 8,
    "sweep_interval_seconds": 300,
    "gc_interval_seconds": 3600,
    "shutdown_seconds": 20,
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty secrets directory, and no settings of the machine."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DATASTORAGE_{name.upper()}", raising=False)
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_the_defaults() -> None:
    assert load_settings().model_dump() == DEFAULTS


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
        load_settings().api_port = 1


def test_a_secret_may_come_from_a_file_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    (secrets / "DATASTORAGE_DATABASE_URL").write_text("postgresql://file\n")
    assert load_settings().require_database_url() == "postgresql://file"
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", "postgresql://environment")
    assert load_settings().require_database_url() == "postgresql://environment"


def test_a_missing_secrets_directory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", "/absent")
    assert load_settings().api_port == 8080


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


def test_every_setting_has_a_description() -> None:
    """tests/unit/test_docs.py holds the documented table."""
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATASTORAGE_TTL_SECONDS", "DATASTORAGE_TTL_SECONDS_AFTER_STORED"),
        ("DATASTORAGE_DATABSE_URL", "DATASTORAGE_DATABASE_URL"),
    ],
)
def test_a_misspelled_setting_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=f"^{name} is not a setting: did you mean {meant}"):
        load_settings()


def test_namespaces_are_names_and_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", "shop,pay,shop")
    assert load_settings().namespaces == ("shop", "pay")
    monkeypatch.setenv("DATASTORAGE_NAMESPACES", "team-*")
    with pytest.raises(ConfigurationError, match=r"^DATASTORAGE_NAMESPACES: "):
        load_settings()


def test_white_space_around_a_url_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORAGE_DATABASE_URL", " postgresql://user:x@host/name\n")
    assert load_settings().require_database_url() == "postgresql://user:x@host/name"
