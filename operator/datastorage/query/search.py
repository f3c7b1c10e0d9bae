"""Search: by meaning, by words, and by both at once."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from datastorage.errors import DataStorageError, InvalidQueryError
from datastorage.query.archivedrecord import archived_all
from datastorage.query.filters import SearchMode
from datastorage.query.fusion import Fused, fuse
from datastorage.query.questionwords import check_question, without_excluded, wording
from datastorage.query.searchresult import FoundBy, SearchHit, SearchResult
from datastorage.records.hashes import NO_TEXT
from datastorage.resilience.outcomes import value_or_raise
from datastorage.storage.criteria import Criteria
from datastorage.storage.fulltext import FullText
from datastorage.storage.matches import Background, Match, Near, best_of_each_text
from datastorage.storage.pages import ArchiveReader

if TYPE_CHECKING:  # as in storage/matches.py
    from datastorage.records.vector import Vector

# A single event that recurs many times must not fill the page.
_PER_TEXT: Final = 3
# A search by both looks further down each ranking than it will show: a hit that is far down in one may be
# high in the other.
_DEPTH: Final = 50
# A search by both waits no longer than this for the vector of a question; then it uses words alone.
_EMBEDDING_SECONDS: Final = 3.0
# Records with the same text are counted up to _MAX_COUNT, and up to _MAX_COUNTED over all texts of an answer.
_MAX_COUNT: Final = 1_000
_MAX_COUNTED: Final = 20_000


class Meaning(Protocol):
    """Finds the records that are nearest in meaning to a question (query/meaning.py)."""

    async def nearest(
        self, question: str, criteria: Criteria, *, limit: int, per_text: int, seconds: float | None
    ) -> Near: ...
    async def background(self, vector: "Vector") -> Background: ...
    async def similarities(self, vector: "Vector", text_hashes: Sequence[bytes]) -> Mapping[bytes, float]: ...


class Searcher:
    """Searches the archive by meaning, by words, or by both."""

    def __init__(
        self,
        reader: ArchiveReader,
        full_text: FullText,
        meaning: Meaning | None,
        *,
        embedding_seconds: float = _EMBEDDING_SECONDS,
    ) -> None:
        """Without ``meaning``, there is no search by it.

        A search by both waits at most ``embedding_seconds`` for the vector of a question.
        """
        self._embedding_seconds = embedding_seconds
        self._reader = reader
        self._full_text = full_text
        self._meaning = meaning

    async def search(
        self, question: str, criteria: Criteria, *, mode: SearchMode, limit: int
    ) -> SearchResult:
        """Return the best records. Raises InvalidQueryError, and TransientError if it can't search now."""
        check_question(question)
        # Bytes of a shell that are not text arrive as surrogate characters, which can't be encoded.
        question = question.encode("utf-8", "replace").decode("utf-8")
        match mode:
            case SearchMode.TEXT:
                return await self._by_text(question, criteria, limit)
            case SearchMode.VECTOR:
                near = await self._near(question, criteria, limit)
                found = [Fused(match, match.score, (FoundBy.MEANING,)) for match in near.matches]
                return await self._result(mode, criteria, found)
            case SearchMode.HYBRID:
                return await self._by_both(question, criteria, limit)

    async def _by_text(self, question: str, criteria: Criteria, limit: int) -> SearchResult:
        matches = await self._text_matches(question, criteria, limit)
        return await self._result(SearchMode.TEXT, criteria, _by_words(matches))

    async def _by_both(self, question: str, criteria: Criteria, limit: int) -> SearchResult:
        depth = max(_DEPTH, limit)
        near, worded = await asyncio.gather(
            self._near(question, criteria, depth, embedding_seconds=self._embedding_seconds),
            self._text_matches(question, criteria, depth),
            return_exceptions=True,
        )
        if isinstance(worded, InvalidQueryError) and not isinstance(near, DataStorageError):
            worded = []  # the question has no words to search for, but it has a meaning
        try:
            fused = await self._fused(value_or_raise(near), value_or_raise(worded))
        except DataStorageError as error:
            # Words alone are enough; if they can't be searched either, that error is the answer.
            found = _by_words(value_or_raise(worded)[:limit])
            return await self._result(SearchMode.TEXT, criteria, found, str(error))
        return await self._result(SearchMode.HYBRID, criteria, fused[:limit])

    async def _fused(self, near: Near, worded: Sequence[Match]) -> list[Fused]:
        """Return the records that either search found, the best first, and only a few of each text.

        Records that the clues of the question single out come first, even where many others are near in
        meaning.
        """
        assert self._meaning is not None, "it has made the vector"
        known = {match.text_hash for match in near.matches}
        others = {match.text_hash for match in worded if match.text_hash is not None} - known
        background, found = await asyncio.gather(
            self._meaning.background(near.vector), self._meaning.similarities(near.vector, list(others))
        )
        fused = {each.match: each for each in fuse(near.matches, worded, found, background)}
        return [fused[match] for match in best_of_each_text(fused, _PER_TEXT)]

    async def _near(
        self, question: str, criteria: Criteria, limit: int, *, embedding_seconds: float | None = None
    ) -> Near:
        if self._meaning is None:
            raise InvalidQueryError(
                "a search by meaning needs vectors, but DATASTORAGE_EMBEDDING_PROVIDER is none: "
                "search by words instead (mode text)"
            )
        asked, excluded = without_excluded(question)
        depth = max(_DEPTH, 2 * limit) if excluded else limit
        near = await self._meaning.nearest(
            asked, criteria, limit=depth, per_text=_PER_TEXT, seconds=embedding_seconds
        )
        matches = near.matches
        if excluded:
            without = await self._full_text.without([match.place for match in matches], excluded)
            matches = [match for match in matches if match.place in without]
        return replace(near, matches=matches[:limit])

    async def _text_matches(self, question: str, criteria: Criteria, limit: int) -> list[Match]:
        matches = await self._full_text.find(criteria, wording(question), limit=limit, per_text=_PER_TEXT)
        if matches is None:
            raise InvalidQueryError(
                "the question has only words that are in every text, such as 'the' and 'what': add others"
            )
        return matches

    async def _result(
        self, mode: SearchMode, criteria: Criteria, found: Sequence[Fused], degraded: str | None = None
    ) -> SearchResult:
        if not found:
            return SearchResult(mode, (), degraded)
        texts = {_text_of(hit.match) for hit in found} - {NO_TEXT}
        limit = max(1, min(_MAX_COUNT, _MAX_COUNTED // max(1, len(texts))))
        stored, totals = await self._reader.load_and_count(
            [hit.match.place for hit in found], criteria, list(texts), limit
        )
        rows = {row.place: row for row in stored}
        loaded = [hit for hit in found if hit.match.place in rows]
        records = await archived_all(rows[hit.match.place] for hit in loaded)
        shown = Counter(_text_of(hit.match) for hit in loaded)
        # How many records of each text are not in the answer.
        more = {text: max(0, total - shown[text]) for text, total in totals.items()}
        hits = tuple(
            SearchHit(record, hit.match.total, hit.similarity, hit.found_by, more.get(_text_of(hit.match), 0))
            for hit, record in zip(loaded, records, strict=True)
        )
        return SearchResult(mode, hits, degraded)


def _text_of(match: Match) -> bytes:
    return match.text_hash or NO_TEXT


def _by_words(matches: Sequence[Match]) -> list[Fused]:
    return [Fused(match, None, (FoundBy.WORDS,)) for match in matches]
