"""Only deletions that are known are taken out of a watch's lines, however these are cut into chunks."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.kube.watchlines import WatchLines


class _Content:
    """Stands for the content of an aiohttp answer: a real one can't be cut where a test wants it."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        self._chunks = [data[start:end] for start, end in pairwise(places)]

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    def exception(self) -> str:
        return "aiohttp's own"


def _known(body: Any) -> bool:
    return bool(body["known"])


async def _read(data: bytes, cuts: list[int]) -> bytes:
    lines = WatchLines(cast("aiohttp.StreamReader", _Content(data, cuts)), _known)
    return b"".join([chunk async for chunk in lines.iter_chunked(2**20)])


def _line(type_: str, *, known: bool) -> bytes:
    return json.dumps({"type": type_, "object": {"known": known}}, separators=(",", ":")).encode() + b"\n"


@given(
    events=st.lists(st.tuples(st.sampled_from(["ADDED", "DELETED", "BOOKMARK"]), st.booleans())),
    cuts=st.lists(st.integers(0, 2000)),
    unended=st.sampled_from([b"", b'{"type":"DELETED","object":{"known":true}}', b'{"type":"DEL']),
)
async def test_only_known_deletions_are_taken_away(
    events: list[tuple[str, bool]], cuts: list[int], unended: bytes
) -> None:
    data = b"".join(_line(type_, known=known) for type_, known in events) + unended
    left = b"".join(
        _line(type_, known=known) for type_, known in events if not (type_ == "DELETED" and known)
    )
    assert await _read(data, cuts) == left + unended


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]), st.booleans())
    ),
    cuts=st.lists(st.integers(0, 2000)),
)
async def test_objects_of_other_shards_are_taken_away(
    events: list[tuple[str, bool]], cuts: list[int]
) -> None:
    """Bookmarks and errors are about no object, and stay."""

    def line(type_: str, *, own: bool) -> bytes:
        return json.dumps({"type": type_, "object": {"own": own, "known": False}}).encode() + b"\n"

    content = cast("aiohttp.StreamReader", _Content(b"".join(line(t, own=own) for t, own in events), cuts))
    lines = WatchLines(content, _known, lambda body: bool(body["own"]))
    assert b"".join([chunk async for chunk in lines.iter_chunked(2**20)]) == b"".join(
        line(type_, own=own) for type_, own in events if own or type_ in {"BOOKMARK", "ERROR"}
    )


@pytest.mark.parametrize(
    "line", [b'{"type":"DELETED"\n', b'{"type":"DELETED","object":1}\n', b'{"type":"DELETED"}\n']
)
async def test_a_line_that_cannot_be_read_is_left_to_kopf(line: bytes) -> None:
    assert await _read(line, []) == line


def test_the_rest_of_the_content_is_aiohttps() -> None:
    lines = WatchLines(cast("aiohttp.StreamReader", _Content(b"", [])), _known)
    assert lines.exception() == "aiohttp's own"


async def test_a_large_line_comes_alone_and_in_its_turn() -> None:
    lines = [b"a", b"b", b"c" * 200_000, b"d" * 200_000, b"e"]
    content = _Content(b"\n".join([*lines, b""]), [])
    read = WatchLines(cast("aiohttp.StreamReader", content), _known).iter_chunked(2**20)
    assert [chunk async for chunk in read] == [
        b"a\nb\n", lines[2] + b"\n", lines[3] + b"\n", b"e\n",
    ]  # fmt: skip
