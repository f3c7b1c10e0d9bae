"""The current value of a secret: it follows its file, and an unusable value is not taken."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from datastorage.errors import ConfigurationError
from datastorage.secrets import Origin, Secret, origin_of
from datastorage.settings import load_settings, setting_names

_FIELDS = ("database_url", "vector_database_url", "redis_url", "embedding_api_key", "embedding_url")


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A secrets directory, and no settings of the machine."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    made = tmp_path / "secrets"
    made.mkdir()
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(made))
    return made


def _no_two(value: str) -> None:
    if "two" in value:
        raise ConfigurationError("DATASTORAGE_REDIS_URL is no such thing")


def _follow(name: str, check: Callable[[str], object] = str, look_seconds: float = 0.0) -> Secret:
    """Return a secret. By default its file is looked at whenever the value is asked for."""
    return Secret(replace(origin_of(load_settings(), name), look_seconds=look_seconds), check)


@pytest.mark.parametrize("name", _FIELDS)
@pytest.mark.parametrize("spelled", [str.upper, str.lower])
def test_each_secret_is_followed_in_its_file(
    directory: Path, name: str, spelled: Callable[[str], str]
) -> None:
    file = directory / spelled(f"datastorage_{name}")
    file.write_text("one\n")
    secret = _follow(name)
    first = secret.current()
    assert (first.value, secret.current()) == ("one", first)
    file.write_text(" two\n")
    second = secret.current()
    assert second.value == "two"
    assert second != first
    file.write_text("one")
    assert secret.current().value == "one"
    assert secret.current() != first, "it was another one in between"


@pytest.mark.parametrize("variable", ["DATASTORAGE_REDIS_URL", "datastorage_redis_url"])
def test_a_value_of_the_environment_never_changes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "one")
    secret = _follow("redis_url")
    (directory / "DATASTORAGE_REDIS_URL").write_text("two")
    assert secret.current().value == "one"


def test_a_value_that_was_set_by_the_program_never_changes(directory: Path) -> None:
    (directory / "DATASTORAGE_REDIS_URL").write_text("two")
    own = load_settings().replaced({"redis_url": SecretStr("one")})
    assert Secret(origin_of(own, "redis_url"), str).current().value == "one"


def test_a_secret_may_be_created_later(directory: Path) -> None:
    secret = _follow("embedding_api_key")
    assert secret.current().value == ""
    (directory / "DATASTORAGE_EMBEDDING_API_KEY").write_text("key")
    assert secret.current().value == "key"


def test_a_directory_may_be_created_later(directory: Path) -> None:
    directory.rmdir()
    secret = _follow("embedding_api_key")
    assert secret.current().value == ""
    directory.mkdir()
    (directory / "DATASTORAGE_EMBEDDING_API_KEY").write_text("key")
    assert secret.current().value == "key"


def test_a_mounted_secret_is_replaced_as_a_whole_and_may_be_missing_meanwhile(directory: Path) -> None:
    for version in ("one", "two"):
        (directory / f"..{version}").mkdir()
        (directory / f"..{version}" / "DATASTORAGE_REDIS_URL").write_text(version)
    data = directory / "..data"
    data.symlink_to("..one")
    (directory / "DATASTORAGE_REDIS_URL").symlink_to("..data/DATASTORAGE_REDIS_URL")
    secret = _follow("redis_url")
    first = secret.current()
    assert first.value == "one"
    data.unlink()
    assert secret.current() == first
    data.symlink_to("..two")
    assert secret.current().value == "two"


@pytest.mark.parametrize(
    "trouble", ["removed", "a directory", "no text", "outside", "a FIFO", "far too much"]
)
def test_unusable_files_are_ignored(directory: Path, tmp_path: Path, trouble: str) -> None:
    file = directory / "DATASTORAGE_REDIS_URL"
    file.write_text("one")
    secret = _follow("redis_url")
    file.unlink()
    if trouble == "a directory":
        file.mkdir()
    elif trouble == "no text":
        file.write_bytes(b"\xff\xfe")
    elif trouble == "a FIFO":
        os.mkfifo(file)
    elif trouble == "far too much":
        file.write_text("two" * 1024 * 1024)
    elif trouble == "outside":
        (tmp_path / "elsewhere").write_text("two")
        file.symlink_to(tmp_path / "elsewhere")
    assert secret.current().value == "one"


def test_an_unusable_value_is_logged_once_and_ignored(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = directory / "DATASTORAGE_REDIS_URL"
    file.write_text("one")
    secret = _follow("redis_url", _no_two)
    first = secret.current()
    file.write_text("two-hunter2")
    assert secret.current() == secret.current() == first
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "DATASTORAGE_REDIS_URL has changed and can't be used; the previous value stays in use"
    )
    assert "hunter2" not in str(record.__dict__)
    file.write_text("three")
    assert secret.current().value == "three"


def test_files_that_a_value_names_are_followed_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "ca.crt"
    file.write_text("one")
    secret = Secret(Origin("DATASTORAGE_REDIS_URL", "hunter2", look_seconds=0.0), str, lambda _: [str(file)])
    first = secret.current()
    file.unlink()
    assert secret.current() == first
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").rename(file)
    second = secret.current()
    assert second != first
    assert secret.current() == second
    assert [record.getMessage() for record in caplog.records] == [
        "A file that DATASTORAGE_REDIS_URL names has changed"
    ]


def test_files_are_not_looked_at_each_time(directory: Path) -> None:
    file = directory / "DATASTORAGE_REDIS_URL"
    file.write_text("one")
    secret = _follow("redis_url", look_seconds=3600.0)
    file.write_text("two")
    assert secret.current().value == "one"


@pytest.mark.parametrize("written", [-7200.0, 7200.0])
def test_a_file_that_is_being_written_is_no_value_yet(directory: Path, written: float) -> None:
    file = directory / "DATASTORAGE_REDIS_URL"
    file.write_text("one")
    origin = replace(origin_of(load_settings(), "redis_url"), look_seconds=3600.0)
    file.write_text("tw")
    assert origin.read() is None
    file.write_text("two")
    os.utime(file, times=(time.time() + written,) * 2)
    assert origin.read() == "two"


def test_nothing_shows_a_secret() -> None:
    origin = Origin("DATASTORAGE_REDIS_URL", "hunter2")
    assert "hunter2" not in f"{origin!r}{Secret(origin, str).current()!r}"


def test_the_first_value_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="DATASTORAGE_REDIS_URL"):
        Secret(Origin("DATASTORAGE_REDIS_URL", "two"), _no_two)
