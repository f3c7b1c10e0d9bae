"""The output of the command line: complete on any terminal, and unable to control the terminal."""

import io
import json
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datastorage.cli import output
from datastorage.errors import DataStorageError
from datastorage.records.deepjson import make_room_for_deep_json

WORDS = "patch-deployment: Raised the memory limit of checkout from 256Mi to 512Mi after repeated OOM kills"
ROW = (
    "2026-11-25T00:38:51Z", "AuditRecord", "payments/checkout-oom-4-execution", "Completed",
    "Deployment/payments/checkout", WORDS,
)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_no_word_is_lost_on_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["CREATED", "KIND", "RECORD", "OUTCOME", "TARGET", "WHAT"]
    output.print_table(columns, [ROW])
    header, first, *rest = capsys.readouterr().out.splitlines()
    assert header.split() == columns
    assert all(cell in first for cell in ROW[:-1]), "a name that is broken can't be copied"
    assert " ".join(" ".join([first, *rest]).split()).endswith(WORDS)
    assert all(line == line.rstrip() for line in [header, first, *rest])
    if width >= 180:
        assert max(map(len, [header, first, *rest])) <= width
        assert rest
    else:
        assert not rest, "one line a row, where there is no room for more"


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
@pytest.mark.parametrize("form", list(output.DocumentFormat))
def test_a_document_is_unchanged_and_cannot_control_a_terminal(
    form: output.DocumentFormat, value: dict[str, Any]
) -> None:
    with redirect_stdout(io.StringIO()) as written:
        output.print_document(value, form)
    text = written.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert (json.loads(text) if form is output.DocumentFormat.JSON else yaml.safe_load(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "12e5",
        "1.5e3",
        "1e-3",
        "0o14",
        "08",
        "1_000",
        "12:30:45",
        ".5",
        "-.5",
        "+.1e-5",
        "._5",
        "+1",
        "y",
        "N",
        "2026-03-05",
    ],
)
def test_texts_that_another_yaml_reader_takes_for_other_types_are_quoted(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_document({text: text}, output.DocumentFormat.YAML)
    assert capsys.readouterr().out == f"'{text}': '{text}'\n"


def test_a_deep_document_is_one_line_of_json_and_no_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    make_room_for_deep_json()
    text = '{"a": ' * 4_000 + "[" * 5_990 + "1" + "]" * 5_990 + "}" * 4_000
    output.print_document(json.loads(text), output.DocumentFormat.JSON)
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(DataStorageError, match="use -o json"):
        output.print_document(json.loads(text), output.DocumentFormat.YAML)


def test_printable_characters_are_not_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"message": "Größe 日本 \u202e\x9b31m"}
    output.print_document(value, output.DocumentFormat.JSON)
    assert capsys.readouterr().out == '{\n  "message": "Größe 日本 \\u202e\\u009b31m"\n}\n'
    output.print_document(value, output.DocumentFormat.YAML)
    assert capsys.readouterr().out == 'message: "Größe 日本 \\u202e\\x9B31m"\n'


def test_of_many_names_the_first_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output.note_named("refused", 0, [])
    output.note_named("refused", 2, ["a", "b"])
    output.note_named("refused", 1234, ["a", "b"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "refused: 2:\na\nb\nrefused: 1,234, of which the first 2:\na\nb\n"
