"""Search: by meaning, by words, and by both at once."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from datastorage.errors import DataStorageError, InvalidQueryError, NoWordsError, TransientError
from datastorage.query.archivedrecord import archived_all
from datastorage.query.filters import SearchMode
from datastorage.query.fusion import Fused, Scale, fuse
from datastorage.query.incidents import leading, lifted, page_of
from datastorage.query.questionwords import check_question, without_excluded, wording
from datastorage.query.searchresult import FoundBy, SearchHit, SearchResult
from datastorage.records.hashes import NO_TEXT
from datastorage.resilience.outcomes import value_or_raise
from datastorage.storage.criteria import Criteria
from datastorage.storage.fulltext import FullText, Worded
from datastorage.storage.hits import HitReader
from datastorage.storage.matches import Match, Near, Similarities, best_of_each_text, first_of_each_text
from datastorage.storage.places import Place

if TYPE_CHECKING:  # as in storage/matches.py
    from datastorage.records.vector import Vector

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A single event that recurs many times must not fill the page.
_PER_TEXT: Final = 3
# The newest records of a text that are looked at if one of the first three has an excluded word.
_PER_LOST_TEXT: Final = 30
_LOST_TEXTS: Final = 50  # at once
# A search looks further down each ranking than it will show: a hit that is far down in one may be high in the
# other, or its incident may lift it. If a few incidents, or records with excluded words, have nearly all of
# that, it looks further still.
_DEPTH: Final = 50
_FURTHER: Final = 10
_MAX_DEPTH: Final = 2_000
# A search by both waits no longer than this for the vector of a question; then it uses words alone.
_EMBEDDING_SECONDS: Final = 3.0
# Characters of a question that is read in the event loop, in a few milliseconds.
_SHORT: Final = 500
# Records of a leading incident that are looked at, the newest of each table.
_OF_INCIDENT: Final = 20
# Records with the same text, or of the same incident, are counted up to _MAX_COUNT, and up to _MAX_COUNTED
# over all texts and incidents of an answer.
_MAX_COUNT: Final = 1_000
_MAX_COUNTED: Final = 20_000


class Meaning(Protocol):
    """Finds the records that are nearest in meaning to a question (query/meaning.py)."""

    async def nearest(
        self, question: str, criteria: Criteria, *, limit: int, per_text: int, seconds: float | None
    ) -> Near: ...
    async def similarities(
        self, criteria: Criteria, vector: "Vector", text_hashes: Sequence[bytes]
    ) -> Similarities: ...
    async def records_of(
        self, criteria: Criteria, similarities: Mapping[bytes, float], *, per_text: int
    ) -> list[Match]: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search has found."""

    mode: SearchMode
    hits: Sequence[Fused]
    """The best first, a few of each text."""
    incidents: Mapping[Place, str]
    is_all: bool
    """Whether looking further down would find no others."""
    degraded: str | None = None


class _Question:
    """The question of a search, of which each reading is made once, however often the search needs it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._readings: dict[Callable[[str], Any], Any] = {}

    async def read(self, reading: Callable[[str], T]) -> T:
        """Return what ``reading`` makes of the text; of a long one, in a thread of its own.

        One of the greatest length can take a quarter of a second. The event loop has its turn meanwhile, but
        not during a search for one regular expression: each has to be linear. Raises the errors of
        ``reading``.
        """
        if reading not in self._readings:
            is_short = len(self._text) <= _SHORT
            self._readings[reading] = (
                reading(self._text) if is_short else await asyncio.to_thread(reading, self._text)
            )
        made: T = self._readings[reading]
        return made


class Searcher:
    """Searches the archive by meaning, by words, or by both."""

    def __init__(
        self,
        hits: HitReader,
        full_text: FullText,
        meaning: Meaning | None,
        *,
        embedding_seconds: float = _EMBEDDING_SECONDS,
        scale: Scale = Scale(),
    ) -> None:
        """Without ``meaning``, there is no search by it.

        A search by both waits at most ``embedding_seconds`` for the vector of a question. In its ranking,
        ``scale`` says what words are worth.
        """
        self._scale = scale
        self._embedding_seconds = embedding_seconds
        self._hits = hits
        self._full_text = full_text
        self._meaning = meaning

    async def search(
        self, question: str, criteria: Criteria, *, mode: SearchMode, limit: int, flat: bool
    ) -> SearchResult:
        """Return the best records. Raises InvalidQueryError, and TransientError if it can't search now.

        A ``flat`` result is in the order of the scores, and has all records of an incident that are good
        enough. Otherwise it has a few of them, one after the other; but hits with a clue come before all
        others.
        """
        check_question(question)
        # Bytes of a shell that are not text arrive as surrogate characters, which can't be encoded.
        asked = _Question(question.encode("utf-8", "replace").decode("utf-8"))
        # A question about one incident is not for others.
        flat = flat or criteria.equal.get("correlation_id") is not None
        found = await self._found(asked, criteria, mode, next(depths := _depths(limit)))
        page = _page(found, limit, flat=flat)
        for depth in depths:
            if len(page) == limit or found.is_all:
                break
            try:
                # What is away is not waited for again.
                further = await self._found(asked, criteria, found.mode, depth)
            except TransientError as error:
                _log.info("A search could not look further down, so it shows what it has: %s", error)
                break
            if further.degraded is not None and found.degraded is None:
                break  # what meaning and words have found together is better than what one finds alone
            found = replace(further, degraded=found.degraded or further.degraded)
            page = _page(found, limit, flat=flat)
        return await self._result(found, page, criteria)

    async def _found(self, question: _Question, criteria: Criteria, mode: SearchMode, depth: int) -> _Found:
        match mode:
            case SearchMode.TEXT:
                return await self._by_words(await self._text_matches(question, criteria, depth))
            case SearchMode.VECTOR:
                return await self._by_meaning(await self._near(question, criteria, depth))
            case SearchMode.HYBRID:
                return await self._by_both(question, criteria, depth)

    async def _by_words(self, worded: Worded, degraded: str | None = None) -> _Found:
        incidents = await self._incidents(worded.matches)
        hits = _best([Fused(match, match.share, (FoundBy.WORDS,)) for match in worded.matches], incidents)
        return _Found(SearchMode.TEXT, hits, incidents, worded.is_all, degraded)

    async def _by_meaning(self, near: Near, degraded: str | None = None) -> _Found:
        incidents = await self._incidents(near.matches)
        found = [Fused(match, match.similarity or 0, (FoundBy.MEANING,)) for match in near.matches]
        return _Found(SearchMode.VECTOR, _best(found, incidents), incidents, near.is_all, degraded)

    async def _by_both(self, question: _Question, criteria: Criteria, depth: int) -> _Found:
        near, worded = await asyncio.gather(
            self._near(question, criteria, depth, embedding_seconds=self._embedding_seconds),
            self._text_matches(question, criteria, depth),
            return_exceptions=True,
        )
        if isinstance(worded, NoWordsError) and not isinstance(near, DataStorageError):
            worded = Worded([], is_all=True)  # the question still has a meaning
        if isinstance(worded, TransientError) and isinstance(near, Near):
            return await self._by_meaning(near, str(worded))
        try:
            return await self._fused(question, value_or_raise(near), value_or_raise(worded), criteria)
        except DataStorageError as error:
            # Words alone are enough; if they can't be searched either, that error is the answer.
            return await self._by_words(value_or_raise(worded), str(error))

    async def _fused(self, question: _Question, near: Near, found: Worded, criteria: Criteria) -> _Found:
        """Return the records that either search found, and others of the incidents that lead.

        Records that the clues of the question single out come first, even where many others are near in
        meaning.
        """
        assert self._meaning is not None, "it has made the vector"
        worded = found.matches
        incidents = await self._incidents([*near.matches, *worded])
        correlated = await self._correlated(question, leading([near.matches, worded], incidents), criteria)
        incidents |= {match.place: incident for incident, of_it in correlated.items() for match in of_it}
        more = [match for of_it in correlated.values() for match in of_it]
        known = {match.text_hash for match in near.matches}
        others = {match.text_hash for match in (*worded, *more) if match.text_hash is not None} - known
        similarities = await self._meaning.similarities(criteria, near.vector, list(others))
        fused = fuse(near.matches, worded, similarities, self._scale, correlated=more)
        await asyncio.sleep(0)  # of thousands of hits, each step takes some tens of milliseconds
        hits = _best(fused, incidents)
        return _Found(SearchMode.HYBRID, hits, incidents, near.is_all and found.is_all)

    async def _correlated(
        self, question: _Question, incidents: Sequence[str], criteria: Criteria
    ) -> Mapping[str, Sequence[Match]]:
        """Return records of each incident, without those that the question excludes."""
        if not incidents:
            return {}
        found = await self._hits.correlated(incidents, criteria, limit=_OF_INCIDENT)
        _, excluded = await question.read(without_excluded)
        if not excluded:
            return found
        left = await self._without([match for of_it in found.values() for match in of_it], excluded)
        return {incident: [match for match in of_it if match in left] for incident, of_it in found.items()}

    async def _incidents(self, matches: Sequence[Match]) -> dict[Place, str]:
        """Return the correlation IDs of the records that have one.

        These records meet the criteria: what the caller may not read has no part in the answer.
        """
        places = list(dict.fromkeys(match.place for match in matches))
        return await self._hits.correlation_ids(places) if places else {}

    async def _near(
        self, question: _Question, criteria: Criteria, limit: int, *, embedding_seconds: float | None = None
    ) -> Near:
        if self._meaning is None:
            raise InvalidQueryError(
                "a search by meaning needs vectors, but DATASTORAGE_EMBEDDING_PROVIDER is none: "
                "search by words instead (mode text)"
            )
        asked, excluded = await question.read(without_excluded)
        near = await self._meaning.nearest(
            asked,
            criteria,
            limit=2 * limit if excluded else limit,
            per_text=_PER_TEXT,
            seconds=embedding_seconds,
        )
        if not excluded:
            return near
        left = await self._without(near.matches, excluded)
        left |= await self._older(near.matches, left, excluded, criteria, limit)
        matches = best_of_each_text(left, _PER_TEXT)
        return replace(near, matches=matches[:limit], is_all=near.is_all and len(matches) <= limit)

    async def _older(
        self, near: Sequence[Match], left: set[Match], excluded: Sequence[str], criteria: Criteria, limit: int
    ) -> set[Match]:
        """Return older records of texts whose newest ones have excluded words, until there are enough.

        The texts are looked at in parts, the nearest first: those of thousands would hold up the event loop.
        """
        assert self._meaning is not None, "it has found the near ones"
        lost = {each.text_hash: each.similarity or 0 for each in near if each not in left and each.text_hash}
        texts = list(lost)
        found: set[Match] = set()
        for first in range(0, len(texts), _LOST_TEXTS):
            nearer = sum((each.similarity or 0) > lost[texts[first]] for each in left | found)
            if nearer >= limit:
                break
            part = {text: lost[text] for text in texts[first : first + _LOST_TEXTS]}
            older = await self._meaning.records_of(criteria, part, per_text=_PER_LOST_TEXT)
            found.update(best_of_each_text(await self._without(older, excluded), _PER_TEXT))
        return found

    async def _without(self, matches: Sequence[Match], excluded: Sequence[str]) -> set[Match]:
        """Return the matches whose records have none of the excluded words and phrases."""
        left = await self._full_text.without([match.place for match in matches], excluded)
        return {match for match in matches if match.place in left}

    async def _text_matches(self, question: _Question, criteria: Criteria, limit: int) -> Worded:
        words = await question.read(wording)
        worded = await self._full_text.find(criteria, words, limit=limit, per_text=_PER_TEXT)
        if worded is None:
            raise NoWordsError(
                "the question has only words that are in every text, such as 'the' and 'what': add others"
            )
        return worded

    async def _result(self, found: _Found, page: Sequence[Fused], criteria: Criteria) -> SearchResult:
        if not page:
            return SearchResult(found.mode, (), found.degraded)
        incidents = found.incidents
        texts = {_text_of(hit) for hit in page} - {NO_TEXT}
        shared = {incidents[hit.match.place] for hit in page if hit.match.place in incidents}
        loaded = await self._hits.load_and_count(
            [hit.match.place for hit in page],
            criteria,
            texts=texts,
            correlation_ids=shared,
            limit=max(1, min(_MAX_COUNT, _MAX_COUNTED // max(1, len(texts) + len(shared)))),
        )
        rows = {row.place: row for row in loaded.rows}
        # The others are too large in sum, or have left the archive since.
        shown = [hit for hit in page if hit.match.place in rows]
        records = await archived_all(rows[hit.match.place] for hit in shown)
        # How many records of each text, and of each incident, are not in the answer.
        of_text = _left(loaded.of_texts, Counter(map(_text_of, shown)))
        of_incident = _left(
            loaded.of_correlation_ids, Counter(incidents.get(hit.match.place) for hit in shown)
        )
        hits = (
            SearchHit(
                record, hit.total, hit.match.similarity, _found_by(hit), of_text.get(_text_of(hit), 0),
                incident := incidents.get(hit.match.place), of_incident.get(incident, 0),
            )
            for hit, record in zip(shown, records, strict=True)
        )  # fmt: skip
        return SearchResult(found.mode, tuple(hits), found.degraded, loaded.left_out)


def _page(found: _Found, limit: int, *, flat: bool) -> Sequence[Fused]:
    return found.hits[:limit] if flat else page_of(found.hits, found.incidents, limit)


def _depths(limit: int) -> Iterator[int]:
    """Yield how far down each ranking a search looks at first, and then if that is not enough."""
    depth = min(max(_DEPTH, 2 * limit), _MAX_DEPTH)
    yield depth
    if depth < _MAX_DEPTH:
        yield min(_FURTHER * depth, _MAX_DEPTH)


def _best(found: Sequence[Fused], incidents: Mapping[Place, str]) -> list[Fused]:
    return list(first_of_each_text(lifted(found, incidents), lambda hit: hit.match, _PER_TEXT))


def _text_of(hit: Fused) -> bytes:
    return hit.match.text_hash or NO_TEXT


def _found_by(hit: Fused) -> tuple[FoundBy, ...]:
    clue = {FoundBy.CLUE} if hit.match.clue_weight else set()
    return tuple(way for way in FoundBy if way in {*hit.found_by, *clue})


def _left(totals: Mapping[T, int], shown: Mapping[T | None, int]) -> dict[T | None, int]:
    return {shared: max(0, total - shown[shared]) for shared, total in totals.items()}
