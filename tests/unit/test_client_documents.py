"""Records in files: YAML and JSON, as kubectl reads them, with the place of each mistake."""

import json
from typing import Any

import pytest

from datastorage.client.documents import documents_in
from datastorage.client.storing import submission_of
from datastorage.errors import InvalidBodyError
from harness.objects import AUDIT_SPEC


def read(name: str, text: str | bytes) -> list[tuple[str, Any]]:
    content = text.encode() if isinstance(text, str) else text
    return [(document.place, document.value) for document in documents_in(name, content)]


def test_each_document_of_yaml_has_its_number() -> None:
    text = "a: 1\n---\n# nothing\n---\nb: 2\n"
    assert read("f.yaml", text) == [("f.yaml, document 1", {"a": 1}), ("f.yaml, document 3", {"b": 2})]
    assert read("-", text) == [("-, document 1", {"a": 1}), ("-, document 3", {"b": 2})]


def test_yaml_has_the_values_that_kubectl_reads() -> None:
    text = """
time: 2026-03-14T09:26:53Z
date: 2026-03-14
clock: 12:30
version: 1.10.2
numbers: [1, -2, 0x10, 0644, 1_000, 1.5, 1e3, 2.]
texts: ['1', "true", 1-2, 08a, ""]
others: [true, no, null, ~]
base: &base {x: 1}
merged: {<<: *base, y: 2}
"""
    [(_, value)] = read("f.yaml", text)
    assert value == {
        "time": "2026-03-14T09:26:53Z",
        "date": "2026-03-14",
        "clock": "12:30",
        "version": "1.10.2",
        "numbers": [1, -2, 16, 420, 1000, 1.5, 1000.0, 2.0],
        "texts": ["1", "true", "1-2", "08a", ""],
        "others": [True, False, None, None],
        "base": {"x": 1},
        "merged": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.json", '{"a": 1}\n{"a": 2}\n\n{"a": 3}'),
        ("f.ndjson", '{"a": 1}\n{"a": 2}\n{"a": 3}\n'),
        ("-", '{\n "a": 1\n}{"a": 2} {"a": 3}'),
    ],
)
def test_json_values_follow_each_other(name: str, text: str) -> None:
    assert read(name, text) == [(f"{name}, document {n}", {"a": n}) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}]', '{"kind": "AuditRecordList", "items": [{"a": 1}, {"a": 2}]}']
)
@pytest.mark.parametrize("name", ["f.json", "f.yaml", "-"])
def test_the_items_of_a_list_have_their_numbers(name: str, text: str) -> None:
    assert read(name, text) == [(f"{name}, document 1, item {n}", {"a": n}) for n in (1, 2)]


def test_numbers_and_texts_of_json_are_kept() -> None:
    value = {"n": 2**62, "ratio": 0.1, "text": "ä€\u2028\x7f", "deep": [[[]]]}
    assert read("f.json", json.dumps(value)) == [("f.json, document 1", value)]
    assert read("-", b"\xef\xbb\xbf" + json.dumps(value).encode())[0][1] == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.yaml", "a: 1\n---\na: b: c", "f.yaml, document 2: not YAML in line 3"),
        ("f.yaml", "a: 1\na: 2\n", "f.yaml, document 1: not YAML in line 2: the field 'a' is there twice"),
        ("f.yaml", "1: 2\n", "f.yaml, document 1: the name of a field must be a text, not 1"),
        ("f.yaml", "a: .nan\n", "f.yaml, document 1: a value is no text, number, list or mapping"),
        ("f.yaml", "a: !!binary aGk=\n", "f.yaml, document 1: a value is no text"),
        ("f.yaml", "a: !!python/object:os.system {}\n", "f.yaml, document 1: not YAML in line 1"),
        ("f.yaml", b"a: \xff\n", "f.yaml, document 1: not YAML"),
        ("f.json", '{"a": 1}\n{"a": }', "f.json, document 2: not JSON in line 2"),
        (
            "f.json",
            '{"a": 1, "a": 2}',
            "f.json, document 1: the value at the root has the field 'a' more than once",
        ),
        ("f.json", '[{"a": 1}, {"a": NaN}]', "f.json, document 1, item 2: the value at /a is NaN"),
        ("f.json", '[{"a": 1}', "f.json: the text is not JSON: the array does not end"),
        ("f.json", b'{"a": "\xff"}', "f.json: the text is not UTF-8 at byte 7"),
        ("f.json", '{"kind": "List", "items": {}}', "f.json, document 1: a list must have items"),
    ],
)
def test_a_mistake_names_the_file_and_the_document(name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidBodyError) as raised:
        read(name, text)
    assert message in str(raised.value)


def test_few_lines_that_stand_for_billions_of_values_are_refused() -> None:
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidBodyError, match="it has more than 200,000 values"):
        read("f.yaml", "\n".join(lines))


def _document(value: Any) -> Any:
    [found] = documents_in("f.json", json.dumps(value).encode())
    return found


def test_a_record_gets_the_namespace_and_a_uid() -> None:
    made = submission_of(_document({"metadata": {"name": "x"}, "spec": dict(AUDIT_SPEC)}), "shop")
    sent = json.loads(made.line)
    assert sent["metadata"] == {"name": "x", "namespace": "shop", "uid": made.uid}
    assert sent["spec"] == AUDIT_SPEC
    assert (made.type, made.namespace, made.name) == ("Remediation", "shop", "x")
    own = {"metadata": {"namespace": "payments", "uid": made.uid}, "spec": dict(AUDIT_SPEC)}
    assert json.loads(submission_of(_document(own), "shop").line) == own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "it must be an AuditRecord, not a single value"),
        ({"kind": "ActionTrace", "spec": {}}, "only AuditRecords can be sent, not 'ActionTrace'"),
        ({"metadata": {}}, "metadata and spec must be objects"),
        ({"metadata": [1], "spec": {}}, "metadata and spec must be objects"),
        ({"spec": {"type": "execution"}}, "spec.type must be one of Remediation"),
        ({"spec": {"type": []}}, "spec.type must be one of Remediation"),
        ({"spec": {"type": "Execution"}}, "metadata.namespace is missing: add it, or give --namespace"),
    ],
)
def test_what_can_t_be_sent_is_named_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(InvalidBodyError) as raised:
        submission_of(_document(value), None)
    assert str(raised.value).startswith(f"f.json, document 1: {message}")
