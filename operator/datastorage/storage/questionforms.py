"""The words of a question in the form that the records have, with their synonyms, and how rare they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from datastorage.records.record import Table
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, ShapedStatement, count_up_to
from datastorage.storage.synonyms import SynonymGroups, SynonymIndex, words_of
from datastorage.storage.wording import Wording, as_searched, tsquery

# Returns the word forms of the question as the records have them, and those of the synonyms of each ($5, $6);
# the number of the newest records that contain it, any of its synonyms, and all of the words; and the number
# of all records, counted up to $4. Also returns the tables that have records; and of the large ones of these,
# which have more than the newest ones, the time of the newest record and the mean time from one to the next.
# No record is older than the oldest.
_FORMS: Final = ShapedStatement(f"""
    WITH sample AS MATERIALIZED (
        (SELECT 'audit_records' AS table_name, r.created_at, r.search FROM datastorage.audit_records AS r
        WHERE {{of_audit_records}} ORDER BY r.created_at DESC LIMIT $3)
        UNION ALL
        (SELECT 'action_traces', r.created_at, r.search FROM datastorage.action_traces AS r
        WHERE {{of_action_traces}} ORDER BY r.created_at DESC LIMIT $3)),
    pace AS MATERIALIZED (
        SELECT coalesce(array_agg(table_name), ARRAY[]::text[]) AS tables,
            array_agg(table_name ORDER BY table_name) FILTER (WHERE is_large) AS large_tables,
            array_agg(newest ORDER BY table_name) FILTER (WHERE is_large) AS newest,
            array_agg((newest - oldest) / $3 ORDER BY table_name) FILTER (WHERE is_large) AS apart
        FROM (
            SELECT table_name, count(*) = $3 AS is_large, max(created_at) AS newest, min(created_at) AS oldest
            FROM sample GROUP BY table_name) AS kinds),
    words AS MATERIALIZED (
        SELECT {tsquery("plainto_tsquery", "word")} AS form, place
        FROM unnest($1::text[]) WITH ORDINALITY AS words (word, place)),
    synonyms AS MATERIALIZED (
        SELECT form, array_agg(DISTINCT synonym) AS synonyms,
            string_agg(DISTINCT '(' || synonym || ')', ' | ')::tsquery AS any_of
        FROM unnest($5::int[], $6::text[]) AS given (place, phrase) JOIN words USING (place),
            LATERAL (SELECT ({tsquery("phraseto_tsquery", "phrase")})::text AS synonym) AS queries
        WHERE synonym NOT IN ('', form::text) GROUP BY form),
    forms AS MATERIALIZED (
        SELECT form, min(place) AS place FROM words
        WHERE numnode(form) > 0 GROUP BY form ORDER BY 2 LIMIT $2)
    SELECT form::text AS form, coalesce(synonyms, ARRAY[]::text[]) AS synonyms, rows, synonym_rows, sampled,
        (SELECT count(*) FROM sample WHERE search @@ (
            SELECT string_agg('(' || form::text || ')', ' & ')::tsquery FROM forms)) AS all_words_rows,
        tables, large_tables, newest, apart,
        least((SELECT min(created_at) FROM datastorage.audit_records),
            (SELECT min(created_at) FROM datastorage.action_traces)) AS oldest,
        ({count_up_to("$4")}) AS total
    FROM pace, forms LEFT JOIN synonyms USING (form), LATERAL (
        SELECT count(*) FILTER (WHERE search @@ form) AS rows,
            count(*) FILTER (WHERE search @@ any_of) AS synonym_rows, count(*) AS sampled
        FROM sample) AS counted
    ORDER BY place
""")  # noqa: S608  # expressions of our own
_STEMS: Final = """
    SELECT word, plainto_tsquery('english'::regconfig, word)::text AS stem
    FROM unnest($1::text[]) AS words (word)
"""
MAX_FORMS: Final = 32
"""Further words add little to a question; the limit bounds the work."""
# Rows of each table in which the words are counted. A word that is in none of them counts as rare.
_SAMPLE: Final = 500
# For an archive without records, and criteria without a time.
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
# What a synonym counts of what the word itself would count. Measured with the first part of
# benchmarks/search: 0.6 is worse by 0.005, and anything from 0.8 to 1 is equally good.
_SYNONYM: Final = 0.9
# A synonym that is in most records tells little, however rare the word itself is. The weight of the word
# counts in full unless that of the synonyms is less than a third of it: people ask with words that no record
# has.
_RARE_ENOUGH: Final = 3.0


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a word in the records: "kill" for "kills"."""

    text: str
    share: float
    """The share of the newest records that contain it."""
    weight: float
    synonyms: Sequence[str] = ()
    """The forms of its synonyms."""
    synonym_share: float = 0.0
    """The share of the newest records that contain any of its synonyms."""
    synonym_weight: float = 0.0
    """What one of its synonyms counts in its place; less than its own weight."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How fast records come into a table, as far as its newest ones tell."""

    newest: datetime
    """The time of the newest record."""
    apart: timedelta
    """The mean time from one record to the next."""


@dataclass(frozen=True, slots=True)
class QuestionWords:
    """The words of a question, and the records among which they are looked for."""

    forms: Sequence[Form]
    total: int
    """The number of the records, counted up to a limit."""
    all_words_share: float
    """The share of the newest records that contain all of the words."""
    tables: frozenset[Table]
    """The tables that have any of these records."""
    arrivals: Mapping[Table, Arrivals]
    """Those of each table that has so many of these records that only the newest ones were looked at."""
    oldest: datetime
    """None of these records is older."""

    def since(self, table: Table, records: float) -> datetime | None:
        """Return the time since which a table has about this many records; None if it may have fewer."""
        known = self.arrivals.get(table)
        if known is None or records * known.apart > known.newest - self.oldest:
            return None
        return known.newest - records * known.apart


class QuestionForms:
    """Looks up the forms of questions. Errors are those of asyncpg; ``reading`` translates them."""

    def __init__(self, groups: SynonymGroups) -> None:
        """``groups`` are the synonyms."""
        self._groups = groups
        self._index: SynonymIndex | None = None

    async def find(
        self, connection: Session, criteria: Criteria, wording: Wording, *, count_up_to: int
    ) -> QuestionWords | None:
        """Return the words, for the records that meet the criteria; these are counted up to ``count_up_to``.

        Returns None if all words are in every text, such as "the".
        """
        words = list(wording.words)
        pairs = await self._synonyms(connection, wording)
        sql, arguments = _FORMS.of(criteria)
        rows = await connection.fetch(
            sql, list(map(as_searched, words)), MAX_FORMS, _SAMPLE, count_up_to,
            [place for place, _ in pairs], [as_searched(text) for _, text in pairs], *arguments,
        )  # fmt: skip
        if not rows:
            return None
        first = rows[0]
        arrivals = zip(*(first[each] or () for each in ("large_tables", "newest", "apart")), strict=True)
        return QuestionWords(
            list(map(_form, rows)), first["total"],
            first["all_words_rows"] / max(first["sampled"], 1), frozenset(map(Table, first["tables"])),
            {Table(table): Arrivals(newest, apart) for table, newest, apart in arrivals},
            max(first["oldest"] or _EARLIEST, criteria.since or _EARLIEST),
        )  # fmt: skip

    async def _synonyms(self, connection: Session, wording: Wording) -> list[tuple[int, str]]:
        """Return the places of words, from 1, each with a synonym."""
        if not self._groups or not wording.runs:
            return []
        if self._index is None:
            self._index = SynonymIndex(self._groups, await _stems(connection, words_of(self._groups)))
        words = [word for run in wording.runs for piece in run for text in piece for word in text.split()]
        stems = await _stems(connection, list(dict.fromkeys(words)))
        places = {word: place for place, word in enumerate(wording.words, 1)}
        found = self._index.synonyms(wording.runs, stems)
        return [(places[each.word], each.text) for each in found if each.word in places]


async def _stems(connection: Session, words: Sequence[str]) -> dict[str, str]:
    return {row["word"]: row["stem"] for row in await connection.fetch(_STEMS, words)}


def _form(row: Any) -> Form:
    rows, synonym_rows, sampled = row["rows"], row["synonym_rows"], row["sampled"]
    form = Form(row["form"], rows / max(sampled, 1), _weight(rows, sampled))
    if not row["synonyms"]:
        return form
    return replace(
        form,
        synonyms=row["synonyms"],
        synonym_share=synonym_rows / max(sampled, 1),
        synonym_weight=_SYNONYM * min(form.weight, _RARE_ENOUGH * _weight(synonym_rows, sampled)),
    )


def _weight(rows: int, sampled: int) -> float:
    """Return the weight of BM25: Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009."""
    return math.log(1 + (sampled - rows + 0.5) / (rows + 0.5))
