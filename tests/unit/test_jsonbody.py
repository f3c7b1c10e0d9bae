"""Reading the JSON of a request; e2e/test_validation.py compares it with the API server."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.errors import BodyTooLargeError, InvalidBodyError
from datastorage.records.jsonbody import BodyLimits, lines, parsed
from harness.strategies import json_values

FLAT = BodyLimits(max_depth=3)


def refused(data: bytes, limits: BodyLimits = BodyLimits()) -> InvalidBodyError:
    with pytest.raises(InvalidBodyError) as error:
        parsed(data, limits)
    return error.value


@given(json_values())
def test_json_is_read_as_it_is(value: Any) -> None:
    assert parsed(json.dumps(value).encode()) == value
    assert parsed(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("text", "pointer", "detail"),
    [
        ('{"a": {"b/c": 1, "b/c": 2}}', "/a", "the value at /a has the field 'b/c' more than once"),
        ('[{"a": 1}, {"a": 1, "b": 2, "a": 1}]', "/1", "has the field 'a' more than once"),
        ('{"a": 1, "a": {"a": 1, "a": 2}}', "", "the value at the root has the field 'a'"),
        ('{"x~/y": [0, 1e400]}', "/x~0~1y/1", "is a number that is too large: 1e400"),
        ('{"a": -1e400}', "/a", "is a number that is too large"),
        (f'{{"a": 1{"0" * 400}}}', "/a", "is a number that is too large: 1000"),
        ('{"a": NaN}', "/a", "is NaN, which JSON does not have"),
        ("-Infinity", "", "is -Infinity, which JSON does not have"),
        (f'{{"{"a" * 9_000}": 1, "{"a" * 9_000}": 1}}', "", "has the field"),
    ],
)
def test_a_refused_value_has_a_pointer(text: str, pointer: str, detail: str) -> None:
    error = refused(text.encode())
    assert error.pointer == pointer
    assert detail in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b"", 0),
        (b"[1,]", 3),
        (b'["\xc3\xa9", x]', 7),
        (b'["\xff"]', 2),
        (b'["\xed\xa0\x80"]', 2),
        (b"\xef\xbb\xbf{}", 0),
        (b"{} {}", 3),
        (b'"a\tb"', 2),
    ],
)
def test_a_text_that_is_no_json_has_a_position(data: bytes, position: int) -> None:
    error = refused(data)
    assert error.position == position
    assert f"at byte {position}" in str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 2.0**63),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", -(2.0**63)),
        ("-0", 0),
        ('"\\ud800"', "\ufffd"),
        ('"\\ud800\\ud83d\\ude00\\udc00"', "\ufffd😀\ufffd"),
        ('"\\\\ud800"', "\\ud800"),
        ('"\\u0000"', "\0"),
    ],
)
def test_values_are_those_of_the_api_server(text: str, value: Any) -> None:
    found = parsed(text.encode())
    assert (found, type(found)) == (value, type(value))


def test_bytes_are_counted_first() -> None:
    limits = BodyLimits(max_bytes=4)
    assert parsed(b"1234", limits) == 1234
    with pytest.raises(BodyTooLargeError, match="has 5 bytes, at most 4"):
        parsed(b"[[[[[", limits)


@pytest.mark.parametrize(
    "data",
    [
        b"[[[[]]]]",
        b'{"a": [{"b": {}}]}',
        b'["]]]]", [[[]]]]',
        b'["\\"]]]]", [[[]]]]',
        b'["\\\\", [[[]]]]',
        b"[[[[",
        b'[["a", [{"b"',
        b"[" * 200_000,
    ],
)
def test_deep_nesting_is_refused(data: bytes) -> None:
    assert "nested more than 3 levels" in str(refused(data, FLAT))


@pytest.mark.parametrize(
    "data",
    [
        b"[[[]]]",
        b'["[[[[[", "\\"[[[[", "\\\\", {"{{{{": [1]}]',
        b"[" + b",".join([b"[[]]"] * 1000) + b"]",
    ],
)
def test_brackets_in_strings_and_in_a_row_are_not_deep(data: bytes) -> None:
    assert parsed(data, FLAT) == json.loads(data)


@given(st.text('[]{}"\\a,:', max_size=30))
def test_depth_is_never_underrated(text: str) -> None:
    """Whatever is read has at most the depth that is allowed."""

    def depth(value: Any) -> int:
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if members is None else 1 + max(map(depth, members), default=0)

    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(InvalidBodyError):
            parsed(text.encode())
        return
    if depth(expected) > 3:
        assert "levels deep" in str(refused(text.encode(), FLAT))


_DEEPEST = """
from datastorage.errors import InvalidBodyError
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.records.jsonbody import parsed
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.validation.verdict import validated

def body(depth):
    spec = b'{"type":"Workflow","action":"a","phase":"Failed","correlationID":"c","details":%b}'
    return b'{"metadata":{"namespace":"n"},"spec":%b}' % (spec % (b"[" * depth + b"]" * depth))

try:
    parsed(body(9_998))
except InvalidBodyError as error:
    print(error)
make_room_for_deep_json()
print(validated(AUDIT_RECORD, parsed(body(9_998))))
try:
    parsed(body(9_999))
except InvalidBodyError as error:
    print(error)
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="later versions limit the parser by a constant")
def test_the_greatest_depth_of_the_api_server_is_read() -> None:
    """In a process of its own, since it changes the limits of the process."""
    run = subprocess.run([sys.executable, "-c", _DEEPEST], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "the JSON is nested deeper than this program can read",
        "[]",
        "the JSON is nested more than 10000 levels deep",
    ]


def test_lines_with_values() -> None:
    data = b'{"a":\r1}\r\n\n \t\n[2]\n3'
    assert [parsed(line) for line in lines(data)] == [{"a": 1}, [2], 3]
    assert list(lines(b"\n\r\n")) == []
