"""An export: records in the order in which they were stored, one in each line, and a last line with the sum.

Each line is a JSON object. The record in it is the stored bytes themselves, as the last member, so a line is
made without reading the JSON, and its hash can be checked: the bytes between the first ``,"record":`` and the
closing brace of the line have the SHA-256 ``contentHash``. (Quotes within a string are escaped, so this text
stands nowhere before the record.)

Only a complete export has the last line. Every other line has a token with which the export goes on after it.
"""

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final, Protocol

from datastorage import metrics
from datastorage.errors import InvalidQueryError
from datastorage.query.cursor import fingerprint, resume_token, resumed_position
from datastorage.query.filters import Filter
from datastorage.records.hashes import labelled, sha256
from datastorage.records.times import rfc3339
from datastorage.resources.reading.registry import READINGS
from datastorage.storage.criteria import EVERYTHING, Criteria, Scope
from datastorage.storage.export import ExportPage, Mark

_log = logging.getLogger(__name__)

END_KIND: Final = "ExportEnd"
"""The ``kind`` of the last line."""
RECORD_MEMBER: Final = b',"record":'
"""The stored bytes follow, up to the closing brace of the line."""
# Some milliseconds of work for the event loop, and large enough for the compression and the network.
_PIECE_BYTES: Final = 256 * 1024
_NO_FILTER: Final = Filter()
_KINDS: Final = {str(reading.table): reading.kind.kind for reading in READINGS}
_BOOLEANS: Final = ("false", "true")


class Reader(Protocol):
    """Where the rows come from (storage/export.py)."""

    async def mark(self, after: int) -> Mark: ...
    async def page(self, criteria: Criteria, after: int, end: int, span: int | None = None) -> ExportPage: ...


class Export:
    """One export under way."""

    def __init__(
        self, reader: Reader, criteria: Criteria, question: str, *, after: int, end: int, names_end: bool
    ) -> None:
        """Read the positions after ``after``, up to ``end``. ``question`` is the criteria's fingerprint.

        ``names_end``: whether the last line has ``end``, which counts the records of all namespaces.
        Otherwise it has the position of the last record, and the next export looks at the positions after
        that again.
        """
        self._reader = reader
        self._criteria = criteria
        self._question = question
        self._position = after
        self._end = end
        self._last = after
        self._names_end = names_end
        self._hash = hashlib.sha256()
        self.count = 0
        """Lines so far, without the last one."""
        self.changed = 0
        """Records so far that are not as they were stored."""
        self.is_complete = False
        """Whether the last line was taken."""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the lines, as pieces of some 256 KiB that consist of whole lines. The last line comes alone.

        A page without rows is an empty piece, so that its reader can see that the export goes on.

        The next page is read while the lines of the one before it are made. Raises TransientError when
        PostgreSQL can't serve; then there is no last line.
        """
        ahead = asyncio.ensure_future(self._page(self._position, None))
        try:
            while True:
                page = await ahead
                is_last = page.end >= self._end
                if not is_last:
                    ahead = asyncio.ensure_future(self._page(page.end, page.next_span))
                if not page.rows:
                    yield b""
                for piece in self._pieces_of(page.rows):
                    yield piece
                    # Other requests have their turn.
                    await asyncio.sleep(0)
                self._position = page.end
                if is_last:
                    break
            yield self._last_line()
            self.is_complete = True
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _page(self, after: int, span: int | None) -> ExportPage:
        return await self._reader.page(self._criteria, after, self._end, span)

    def _pieces_of(self, rows: Iterable[Any]) -> Iterable[bytes]:
        lines: list[bytes] = []
        size = 0
        for row in rows:
            line = self._line(row)
            lines.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                yield self._piece(lines)
                lines, size = [], 0
        if lines:
            yield self._piece(lines)

    def _piece(self, lines: list[bytes]) -> bytes:
        piece = b"".join(lines)
        self._hash.update(piece)
        self.count += len(lines)
        metrics.EXPORT_RECORDS.inc(len(lines))
        metrics.EXPORT_BYTES.inc(len(piece))
        return piece

    def _line(self, row: Mapping[str, Any]) -> bytes:
        content: bytes = row["content"]
        position: int = row["stored_order"]
        self._last = position
        head = (
            f'{{"position":{position},"resumeToken":"{self._token(position)}",'
            f'"kind":"{_KINDS[row["table_name"]]}","namespace":{_text(row["namespace"])},'
            f'"name":{_text(row["name"])},"uid":"{row["uid"]}","generation":{row["generation"]},'
            f'"createdAt":"{rfc3339(row["created_at"])}","storedAt":"{rfc3339(row["stored_at"])}",'
            f'"contentHash":"{labelled(row["content_hash"])}","diverged":{_BOOLEANS[row["diverged"]]},'
            f'"via":"{row["via"]}","recordedBy":{_text(row["recorded_by"])},"intact":'
        )
        is_intact = sha256(content) == row["content_hash"]
        if is_intact and content[:1] == b"{" and content[-1:] == b"}" and b"\n" not in content:
            return b"%strue%s%s}\n" % (head.encode(), RECORD_MEMBER, content)
        # Somebody has changed the bytes. They may be anything, and must not break the line.
        self.changed += 1
        _log.error(
            "A stored record has been changed: its content does not match its hash",
            extra={"uid": str(row["uid"]), "generation": row["generation"], "table": row["table_name"]},
        )
        return b'%sfalse,"changedContent":"%s"%snull}\n' % (
            head.encode(), base64.b64encode(content), RECORD_MEMBER,
        )  # fmt: skip

    def _last_line(self) -> bytes:
        end = self._end if self._names_end else self._last
        return end_line(self.count, self._hash.digest(), position=end, token=self._token(end))

    def _token(self, position: int) -> str:
        return resume_token(position, self._question)


class ArchiveExports:
    """Begins exports of an archive."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def begin(
        self,
        filter: Filter = _NO_FILTER,  # noqa: A002  # the word of the interface
        *,
        token: str | None = None,
        scope: Scope = EVERYTHING,
    ) -> Export:
        """Return an export of what is committed now; with a token, of what comes after it.

        Raises InvalidQueryError for a token of other conditions or of another archive, and TransientError
        when PostgreSQL can't serve.
        """
        criteria = filter.criteria().within(scope)
        question = _fingerprint(criteria)
        after = 0 if token is None else resumed_position(token, question)
        mark = await self._reader.mark(after)
        if after > mark.last:
            raise InvalidQueryError(
                "the token is ahead of this archive, which may have been restored from a backup: "
                "begin a new export, without the token"
            )
        return Export(
            self._reader, criteria, question, after=after, end=max(after, mark.position),
            names_end=scope.since is None,
        )  # fmt: skip


def end_line(count: int, digest: bytes, *, position: int, token: str) -> bytes:
    """Return the last line of an export; ``digest`` is the SHA-256 of all bytes before it."""
    values = {
        "kind": END_KIND,
        "count": count,
        "linesHash": labelled(digest),
        "position": position,
        "resumeToken": token,
    }
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _fingerprint(criteria: Criteria) -> str:
    """Return the fingerprint of the conditions that are set.

    A later version of the program may know more conditions; the tokens of this one must serve there too.
    """
    bounds = (
        (name, time.isoformat())
        for name, time in (("since", criteria.since), ("until", criteria.until))
        if time is not None
    )
    return fingerprint(
        "export",
        sorted(map(str, criteria.tables)),
        criteria.namespace,
        sorted(bounds),
        sorted(criteria.equal.items()),
    )


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)
