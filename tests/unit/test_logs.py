"""Logs: one JSON object a line, or text."""

import json
import logging
from collections.abc import Iterator

import pytest

from datastorage.logs import configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the root logger after the test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    log = logging.getLogger("datastorage.some.part")
    log.warning("two\nlines", extra={"object_name": "a"})
    log.debug("too quiet")
    try:
        int("inner")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"], first["object_name"]) == (
        "WARNING", "datastorage.some.part", "two\nlines", "a",
    )  # fmt: skip
    assert first["time"][:2] == "20"
    assert "ValueError: invalid literal" in second["exc_info"]


def test_text_logs_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "text")
    logging.getLogger("datastorage").debug("hello")
    assert capsys.readouterr().err.rstrip().endswith("DEBUG   datastorage: hello")


@pytest.mark.parametrize("name", ["kopf", "uvicorn.access", "alembic"])
def test_chatty_libraries_are_quiet(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logging("DEBUG", "json")
    logging.getLogger(name).info("every object")
    assert capsys.readouterr().err == ""


def test_text_logs_have_everything_that_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("datastorage").warning("Sweep failed", extra={"error": "refused", "count": 3})
    assert capsys.readouterr().err.endswith("WARNING datastorage: Sweep failed count=3 error=refused\n")


def test_a_text_line_holds_no_line_breaks_or_control_characters_of_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", "text")
    forged = "rr-1\n2026-01-01 ERROR forged\x1b[2J\u2028\ud800"
    logging.getLogger("test").warning("about a record", extra={"correlation_id": forged})
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(r"correlation_id=rr-1\n2026-01-01 ERROR forged\x1b[2J\u2028\ud800")
