"""Answers with many records: encoded and sent in pieces, and bounded in memory."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from datastorage.api.openapi import JSON
from datastorage.api.room import Room
from datastorage.api.turns import Turns
from datastorage.metrics import Limit
from datastorage.query.encoding import encoded
from datastorage.records.hashes import labelled
from datastorage.resilience.pieces import in_pieces

_PIECE_BYTES: Final = 256 * 1024
_ETAGS: Final = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """How much memory questions may take."""

    made_at_once: int = 4
    """Answers that are read and encoded at a time; one takes some 100 MB if its records are the largest. One
    identity has at most one less, so that the questions of others do not wait behind a flood of its own."""
    patience_seconds: float = 5.0
    """A question waits no longer for its turn."""
    bytes_at_once: int = 96 * 1024 * 1024
    """Bytes of the answers that clients have not read yet: of two or three of the largest."""
    bytes_reserved: int = 32 * 1024 * 1024
    """Bytes of those that one identity leaves to others: its clients may read slowly."""


class Answers:
    """Makes the answers of all requests."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._turns = Turns(
            limits.made_at_once,
            patience_seconds=limits.patience_seconds,
            limit=Limit.ANSWERS,
            refusal="too many questions at a time",
        )
        self._room = Room(limits.bytes_at_once, Limit.ANSWER_BYTES, reserved=limits.bytes_reserved)

    def turn(self, identity: str) -> AbstractAsyncContextManager[None]:
        """Wait for the turn to read and encode an answer. Raises OverloadedError."""
        return self._turns.take(identity)

    async def listed(self, identity: str, items: Iterable[bytes], rest: Mapping[str, Any]) -> Response:
        """Return the answer with items, each in JSON, and the other fields of ``rest``.

        Raises OverloadedError.
        """
        body = bytearray(b'{"items": [')
        is_first = True
        async for piece in in_pieces(items, len):
            body += b"" if is_first else b", "
            body += piece
            is_first = False
        body += b"]" + b"".join(b", " + encoded({name: rest[name]})[1:-1] for name in rest) + b"}\n"
        self._room.take(identity, len(body))
        return _Pieces(body, partial(self._room.free, identity, len(body)))


class _Pieces(Response):
    """A body that is sent in pieces, each when the client has read most of those before."""

    def __init__(self, body: bytearray, free: Callable[[], None]) -> None:
        super().__init__(media_type=JSON, headers={"Content-Length": str(len(body))})
        self._pieces = body
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            for start in range(0, len(self._pieces), _PIECE_BYTES):
                piece = bytes(self._pieces[start : start + _PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._free()


def etag_of(content_hash: bytes) -> str:
    """Return the entity tag of a record's content."""
    return f'"{labelled(content_hash)}"'


def is_among(etag: str, values: Iterable[str]) -> bool:
    """Return whether the values of If-None-Match name an entity tag, or any with ``*``.

    A proxy that compresses answers makes the tag a weak one; RFC 9110 takes that for the same here.
    """
    return any(value.strip() == "*" or etag in _ETAGS.findall(value) for value in values)


def json_response(
    value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer with one value, and a line break, so that the prompt of a shell begins a new line."""
    return Response(encoded(value) + b"\n", status_code=status, media_type=JSON, headers=headers)
