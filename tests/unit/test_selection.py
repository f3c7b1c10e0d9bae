"""The objects of a shard: each object belongs to exactly one shard."""

import re
import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.resources.selection import EVERYTHING, Selection, fnv1a_64


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # From the published test vectors of FNV.
        ("", 0xCBF29CE484222325),
        ("a", 0xAF63DC4C8601EC8C),
        ("foobar", 0x85944171F73967E8),
    ],
)
def test_the_hash_agrees_with_other_implementations(text: str, value: int) -> None:
    assert fnv1a_64(text) == value


@given(uid=st.uuids().map(str) | st.text(), shards=st.integers(1, 50))
def test_every_object_is_in_exactly_one_shard(uid: str, shards: int) -> None:
    body = {"metadata": {"uid": uid}}
    [shard] = [n for n in range(shards) if Selection(shard=n, shards=shards).has(body)]
    # The ranges are in the order of their shards, as the API server names them.
    first, end = -(-(shard << 64) // shards), -(-((shard + 1) << 64) // shards)
    assert first <= fnv1a_64(uid) < end


@given(shards=st.integers(2, 64), data=st.data())
def test_the_ranges_that_the_api_server_is_asked_for_are_those(shards: int, data: st.DataObject) -> None:
    shard = data.draw(st.integers(0, shards - 1))
    selector = Selection(shard=shard, shards=shards).shard_selector
    assert selector is not None
    found = re.fullmatch(
        r"shardRange\(object\.metadata\.uid, '0x([0-9a-f]{16})', '0x(1?[0-9a-f]{16})'\)", selector
    )
    assert found is not None
    start, end = (int(number, 16) for number in found.groups())

    def shard_of(hashed: int) -> int:
        return hashed * shards >> 64  # as ``has`` computes it

    assert shard_of(start) == shard_of(end - 1) == shard
    assert start == 0 or shard_of(start - 1) == shard - 1
    assert end == 1 << 64 or shard_of(end) == shard + 1


def test_one_shard_asks_for_no_range() -> None:
    assert EVERYTHING.shard_selector is None


def test_shards_are_of_about_the_same_size() -> None:
    bodies = [{"metadata": {"uid": str(uuid.UUID(int=number * 2**64))}} for number in range(4000)]
    shards = [Selection(shard=number, shards=4) for number in range(4)]
    sizes = Counter(next(s.shard for s in shards if s.has(body)) for body in bodies)
    assert all(800 < size < 1200 for size in sizes.values())


@pytest.mark.parametrize(
    "body",
    [
        {}, {"metadata": None}, {"metadata": {}}, {"metadata": {"uid": 5}}, {"metadata": "text"},
        {"metadata": []}, {"metadata": {"uid": "\ud800"}}, None, "text",
    ],
)  # fmt: skip
def test_an_object_that_can_not_be_read_has_one_shard_too(body: object) -> None:
    assert sum(Selection(shard=number, shards=3).has(body) for number in range(3)) == 1


def test_one_shard_has_everything() -> None:
    assert EVERYTHING.has({"metadata": {"uid": "any"}})
    assert EVERYTHING.namespaces == ()


@pytest.mark.parametrize(("shard", "shards"), [(1, 1), (-1, 2), (0, 0)])
def test_there_are_no_others(shard: int, shards: int) -> None:
    with pytest.raises(ValueError, match="there is no shard"):
        Selection(shard=shard, shards=shards)
