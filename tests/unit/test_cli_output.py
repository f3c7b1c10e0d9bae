"""Tables of the command line: on a narrow terminal lines are folded, and nothing is lost."""

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from datastorage.cli import output

WORDS = "patch-deployment: Raised the memory limit of checkout from 256Mi to 512Mi after repeated OOM kills"
ROW = (
    "2026-11-25T00:38:51Z", "AuditRecord", "payments/checkout-oom-4-execution", "Completed",
    "Deployment/payments/checkout", WORDS,
)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_no_word_is_lost_on_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(output, "Console", lambda **_: Console(width=width))
    output.print_table(["CREATED", "KIND", "RECORD", "OUTCOME", "TARGET", "WHAT"], [ROW])
    shown = capsys.readouterr().out
    letters = sorted("".join("".join(ROW).split()))
    printed = sorted("".join("".join(shown.splitlines()[1:]).split()))
    # The heading may be folded too, and then adds its own letters.
    for letter in set(letters):
        assert printed.count(letter) >= letters.count(letter), (width, letter)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
@pytest.mark.parametrize("form", list(output.DocumentFormat))
def test_a_document_is_what_it_was_and_steers_no_terminal(
    form: output.DocumentFormat, value: dict[str, Any]
) -> None:
    with redirect_stdout(io.StringIO()) as written:
        output.print_document(value, form)
    text = written.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert (json.loads(text) if form is output.DocumentFormat.JSON else yaml.safe_load(text)) == value


def test_letters_stay_letters(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"message": "Größe 日本 \u202e\x9b31m"}
    output.print_document(value, output.DocumentFormat.JSON)
    assert capsys.readouterr().out == '{\n  "message": "Größe 日本 \\u202e\\u009b31m"\n}\n'
    output.print_document(value, output.DocumentFormat.YAML)
    assert capsys.readouterr().out == 'message: "Größe 日本 \\u202e\\x9B31m"\n'
