"""Canonical JSON: one value, one byte string, and back."""

import hashlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import sha256
from harness.strategies import json_values

# A parser has made one character of surrogates that form a pair.
any_text = st.text(st.characters()).map(lambda text: json.loads(json.dumps(text)))
any_json = json_values() | st.dictionaries(any_text, any_text | json_values(5))


def same(one: Any, other: Any) -> bool:
    """Equal in type and sign too: 1, 1.0 and True are different JSON."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and bool(one == other)


def shuffled(value: Any, seed: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        seed.shuffle(items)
        return {key: shuffled(item, seed) for key, item in items}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


@given(any_json)
def test_a_value_survives_a_round_trip(value: Any) -> None:
    assert same(json.loads(canonical_bytes(value)), value)


@given(any_json, st.randoms())
def test_the_order_of_keys_makes_no_difference(value: Any, seed: random.Random) -> None:
    assert canonical_bytes(shuffled(value, seed)) == canonical_bytes(value)


@given(any_json)
def test_writing_what_was_read_gives_the_same_bytes(value: Any) -> None:
    content = canonical_bytes(value)
    assert canonical_bytes(json.loads(content)) == content


@given(any_json, any_json)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) is same(one, other)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, 1.5]}, b'{"a":[true,null,1.5],"b":1}'),
        ({"\U0001f9e8": 1, "\uffff": 2}, '{"\uffff":2,"\U0001f9e8":1}'.encode()),
        ('\0\n"\\é', b'"\\u0000\\n\\"\\\\\xc3\xa9"'),
        ("\ud800", b'"\\ud800"'),
        (2**63 - 1, b"9223372036854775807"),
        (-0.0, b"-0.0"),
        (1e22, b"1e+22"),
    ],
)
def test_the_form_is_pinned(value: Any, expected: bytes) -> None:
    """Stored hashes depend on it: a change here breaks the proof of everything stored before."""
    assert canonical_bytes(value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_values_that_json_lacks_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_bytes(value)


def test_the_hash_is_sha_256_of_the_bytes() -> None:
    assert sha256(b"{}") == hashlib.sha256(b"{}").digest()
