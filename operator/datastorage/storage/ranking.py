"""Ranks records by the words of a question that they have."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from datastorage.records.record import Table
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.questionforms import Form, QuestionWords
from datastorage.storage.wordconditions import WordConditions
from datastorage.storage.wording import joined

# What says the same: one without a text says nothing that another one says.
_TEXT: Final = "coalesce(nullif(text_hash, sha256('')), uuid_send(uid))"
# Many records have the same time: which of them are taken must not depend on where PostgreSQL has put them.
_NEWEST_FIRST: Final = "created_at DESC, generation DESC, uid, spec_hash"


def _rows(table: Table, condition: str = "true") -> str:
    """Return the SQL for the rows of a table that meet the condition and the criteria, and a further one."""
    return f"""SELECT r.uid, r.generation, r.created_at, r.spec_hash, r.diverged, r.text_hash, r.search
        FROM datastorage.{table} AS r
        WHERE {{of_{table}}} AND r.search @@ $1::text::tsquery AND {condition}"""  # noqa: S608


def _since(parameter: str) -> str:
    return f"r.created_at >= coalesce({parameter}::timestamptz, '-infinity')"


def _newest_rows(rows: str, condition: str) -> str:
    """Return the SQL for the newest $10 rows that meet the condition, and others that say something else.

    The others are the newest $10 of which no more than $13 have the same text. ``few`` counts these.
    """
    return f"""SELECT uid, generation, created_at, spec_hash, diverged, text_hash, search, few FROM (
            SELECT *, count(*) FILTER (WHERE nth <= $13) OVER by_time AS few,
                row_number() OVER by_time AS place
            FROM (
                SELECT *, row_number() OVER (PARTITION BY {_TEXT} ORDER BY {_NEWEST_FIRST}) AS nth
                FROM {rows} AS r WHERE {condition}) AS of_texts
            WINDOW by_time AS (ORDER BY {_NEWEST_FIRST} ROWS UNBOUNDED PRECEDING)) AS numbered
        WHERE place <= $10 OR nth <= $13 AND few <= $10"""  # noqa: S608  # names and numbers of our own


# All rows that meet the condition.
_ALL: Final = f"""matching AS (
    SELECT 'audit_records' AS table_name, r.* FROM ({_rows(Table.AUDIT_RECORDS)}) AS r
    UNION ALL
    SELECT 'action_traces', r.* FROM ({_rows(Table.ACTION_TRACES)}) AS r WHERE {{newest}})
"""  # noqa: S608  # the names of our own tables
# The newest of them in each table, of the time since $11 or $12: $10, and as many more that an event which
# recurs every minute would hide otherwise. PostgreSQL finds all these rows first, by the index of their
# words: if it knew of the limit, it would rather walk the rows from the newest one, and so read the whole
# archive for a word that it believes more frequent than it is.
_NEWEST: Final = f"""records AS MATERIALIZED ({_rows(Table.AUDIT_RECORDS, _since("$11"))}),
    traces AS MATERIALIZED ({_rows(Table.ACTION_TRACES, _since("$12"))}),
    matching AS MATERIALIZED (
        SELECT 'audit_records' AS table_name, r.* FROM ({_newest_rows("records", "true")}) AS r
        UNION ALL
        SELECT 'action_traces', r.* FROM ({_newest_rows("traces", "{newest}")}) AS r)
"""  # noqa: S608  # the names of our own tables
# The tables that may have more, and those in which no event hides the others.
_FULL: Final = "ARRAY(SELECT m.table_name FROM matching AS m GROUP BY 1 HAVING count(*) >= $10)"
_VARIED: Final = "ARRAY(SELECT m.table_name FROM matching AS m GROUP BY 1 HAVING max(m.few) >= $14)"

# PostgreSQL keeps a long value compressed, and every function unpacks it again: for questions of many words
# among long records, that took most of the time. So it is unpacked once per row. This function returns a
# copy, for all words have the weight D already; a short value needs none.
_UNPACKED: Final = "CASE WHEN pg_column_size(search) > 1000 THEN setweight(search, 'D') ELSE search END"


def _ranking(matching: str, more: str = "") -> str:
    """Return the statement that ranks the rows ``matching`` that meet the condition $1.

    A share is a sum over the words ($2), divided by all weights ($3): each counts its weight times its
    frequency in the record, relative to the record's length. One of its synonyms ($5: all of a word in one,
    $7: each, $6: the number of its word) counts instead, with the weight $4, if that is more. The frequency
    of a phrase is the mean of those of its words: the rank of a phrase has another scale. So it is with a
    word that PostgreSQL splits ("1e9" and "a" of "1e9a"), whose rank would take the time of comparing every
    place of one part with every place of the other. The information is the sum of the weights alone, divided
    in the same way. The best rows ($9) by either are returned, and of each text the best ($8) by either: with
    the same text, the longer record may be the one whose details have the words.
    """
    return with_conditions(f"""
    WITH {matching},
    words AS MATERIALIZED (
        SELECT form::tsquery AS form, replace(form, ' & ', ' | ')::tsquery AS parts, weight, synonym_weight,
            any_of::tsquery AS any_of, number
        FROM unnest($2::text[], $3::float8[], $4::float8[], $5::text[])
            WITH ORDINALITY AS given (form, weight, synonym_weight, any_of, number)),
    synonyms AS MATERIALIZED (
        SELECT number, synonym::tsquery AS form,
            regexp_replace(synonym, '<(-|[0-9]+)>', '|', 'g')::tsquery AS words
        FROM unnest($6::int[], $7::text[]) AS given (number, synonym)),
    ranked AS (
        SELECT table_name, uid, generation, created_at, spec_hash, text_hash,
            share, information
        FROM (SELECT *, {_UNPACKED} AS unpacked FROM matching OFFSET 0) AS r, LATERAL (
            SELECT sum(greatest(
                CASE WHEN has_it THEN weight * ts_rank(unpacked, parts, 1) ELSE 0 END,
                CASE WHEN has_synonym THEN synonym_weight * (
                    SELECT max(ts_rank(unpacked, s.words, 1)) FROM synonyms AS s
                    WHERE s.number = looked_up.number AND unpacked @@ s.form) END)) / sum(weight) AS share,
                sum(CASE WHEN has_it THEN weight WHEN has_synonym THEN synonym_weight ELSE 0 END)
                    / sum(weight) AS information
            FROM (SELECT *, unpacked @@ form AS has_it, unpacked @@ any_of AS has_synonym FROM words OFFSET 0)
                AS looked_up) AS summed),
    numbered AS (
        SELECT *, row_number() OVER (of_text
                ORDER BY share DESC, created_at DESC, uid, generation DESC, spec_hash) AS by_share_of_text,
            row_number() OVER (of_text ORDER BY information DESC, share DESC, created_at DESC, uid,
                generation DESC, spec_hash) AS by_information_of_text
        FROM ranked WINDOW of_text AS (PARTITION BY {_TEXT})),
    placed AS (
        SELECT *, row_number() OVER (ORDER BY share DESC, created_at DESC, uid, generation DESC, spec_hash)
                AS by_share,
            row_number() OVER (ORDER BY information DESC, share DESC, created_at DESC, uid, generation DESC,
                spec_hash) AS by_information
        FROM numbered WHERE least(by_share_of_text, by_information_of_text) <= $8)
    SELECT table_name, uid, generation, created_at, spec_hash, text_hash, share, information{more}
    FROM placed WHERE least(by_share, by_information) <= $9 ORDER BY by_share
""")  # noqa: S608  # expressions of our own


RANK_ALL: Final = _ranking(_ALL)
RANK_NEWEST: Final = _ranking(_NEWEST, f", {_FULL} AS full_tables, {_VARIED} AS varied_tables")
# In an archive with many records, words that together are in more than this share of them select no records,
# and only affect the ranking: the newest few hundred records with a common word could miss the best ones.
_COMMON: Final = 0.02
# A smaller share is not well known: five of the thousand newest records, or fewer.
_KNOWN_SHARE: Final = 0.005
# The newest records with a word are looked for in a time that is so many times as long as should be enough,
# and at last in all time.
_WIDER: Final = (2, 16, 128)
# The attempt after which no others are looked for if there are enough rows, though they say the same.
_LAST_OF_FULL: Final = 1


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows that rank highest."""

    rows: Sequence[Any]
    """They may be there more than once."""
    is_all: bool
    """Whether a larger limit would find no others."""


@dataclass(frozen=True, slots=True)
class RankLimits:
    """Limits on the number of records that are ranked for a question."""

    few_records: int = 5_000
    """Of up to this many records that meet the criteria, all that the words select are ranked."""
    selected_of_few: int = 1_500
    """Of few records, the words select about so many, the rarest words first. If even the rarest one is in
    more, it tells little about a record; then no more of the newest ones are ranked than of many records."""
    newest: int = 300
    """Of many records, so many rows of each table are ranked. Between two rows with a common word are fifty
    others, and reading those takes most of the time."""
    newest_of_text: int = 10
    """As many other rows are ranked, among which no text is more often than this: an event that recurs every
    minute hides no others."""
    varied: int = 100
    """Older rows are looked for until there are so many of this second kind."""


class Ranking:
    """Ranks records that meet a condition by the words of a question; returns those that rank highest.

    A condition is a tsquery, as text. Errors are those of asyncpg; ``reading`` translates them.
    """

    def __init__(
        self, connection: Session, words: QuestionWords, limits: RankLimits, per_text: int, limit: int
    ) -> None:
        """At most ``limit`` rows are returned by their share, and as many by their information; of each text,
        at most ``per_text``.

        Of the words, the records are counted up to one more than ``limits.few_records``.
        """
        self._connection = connection
        self._words = words
        self._max_rows = max(limit, limits.newest)
        self._limits = limits
        self._are_few = words.total <= limits.few_records
        self._arguments = (*_arguments(words.forms), per_text, limit)

    @property
    def room(self) -> float:
        """The share of the records that words may have together if they select records."""
        if not self._are_few:
            return _COMMON
        # All of so few can be ranked. (A record with two of the words counts twice in the sum of the shares.)
        few = self._limits.selected_of_few
        return math.inf if self._words.total <= few else few / self._words.total

    async def best(
        self, criteria: Criteria, conditions: WordConditions, nothing_has_all: Callable[[], bool]
    ) -> Ranked:
        """Rank the records that meet the conditions, or the newest of them if there are too many.

        ``nothing_has_all`` returns whether it is known by now that no record has all words.
        """
        if self._are_few and not conditions.are_common:
            rows, full = await self._all(criteria, conditions.words), frozenset[Table]()
        elif conditions.are_common and conditions.all_words is not None:
            # Where enough records have all words, nothing better has fewer of them.
            rows, full = await self._newest(criteria, conditions.all_words, conditions.all_words_share)
            if others := criteria.tables - full:
                of_others = replace(criteria, tables=others)
                more, also_full = await self._newest(of_others, conditions.words, conditions.words_share)
                rows, full = rows + more, full | also_full
        else:
            rows, full = await self._newest(criteria, conditions.words, conditions.words_share)
            if full and conditions.all_words is not None and not nothing_has_all():
                of_full = replace(criteria, tables=full)
                rows += (await self._newest(of_full, conditions.all_words, conditions.all_words_share))[0]
        if conditions.synonyms is not None:
            more, also_full = await self._newest(criteria, conditions.synonyms, conditions.synonyms_share)
            rows, full = rows + more, full | also_full
        return Ranked(rows, is_all=not full)

    async def _all(self, criteria: Criteria, condition: str) -> list[Any]:
        rows = await self._connection.fetch(RANK_ALL, condition, *self._arguments, *criteria.arguments)
        return list(rows)

    async def _newest(
        self, criteria: Criteria, condition: str, share: float
    ) -> tuple[list[Any], frozenset[Table]]:
        """Rank the newest records that meet a condition; also return the tables in which more may meet it.

        About this share of the records meets the condition. Where many do, finding all of them would take
        long. So the rows are looked for in the time in which there should be enough of them, and in longer
        ones if there are not.
        """
        rows: list[Any] = []
        full: frozenset[Table] = frozenset()
        left = criteria.tables
        for attempt, since in enumerate(self._times(share)):
            found, also_full, varied = await self._newest_of(replace(criteria, tables=left), condition, since)
            rows, full = rows + found, full | also_full
            left = frozenset(table for table in left - (full & varied) if since.get(table) is not None)
            if attempt == _LAST_OF_FULL:  # there may be any number of rows
                left -= full
            if not left:
                break
        return rows, full

    async def _newest_of(
        self, criteria: Criteria, condition: str, since: Mapping[Table, datetime | None]
    ) -> tuple[list[Any], frozenset[Table], frozenset[Table]]:
        """Also return the tables in which more may meet it, and those whose rows are varied."""
        times = (since.get(Table.AUDIT_RECORDS), since.get(Table.ACTION_TRACES))
        rows = await self._connection.fetch(
            RANK_NEWEST,
            condition,
            *self._arguments,
            self._max_rows,
            *times,
            self._limits.newest_of_text,
            min(self._limits.varied, self._max_rows),
            *criteria.arguments,
        )
        full, varied = (rows[0][of_tables] if rows else () for of_tables in ("full_tables", "varied_tables"))
        return list(rows), frozenset(map(Table, full)), frozenset(map(Table, varied))

    def _times(self, share: float) -> Iterator[Mapping[Table, datetime | None]]:
        """Yield the times since which to look for each table's rows, one after the other; None for all."""
        if share >= _KNOWN_SHARE:
            for wider in _WIDER:
                records = self._max_rows / share * wider
                yield {table: self._words.since(table, records) for table in Table}
        yield {}


def _arguments(forms: Sequence[Form]) -> tuple[Sequence[Any], ...]:
    """Return the arguments for the words and their synonyms."""
    synonyms = [(number, each) for number, form in enumerate(forms, 1) for each in form.synonyms]
    return (
        [form.text for form in forms],
        [form.weight for form in forms],
        [form.synonym_weight for form in forms],
        [joined(" | ", form.synonyms) or None for form in forms],
        [number for number, _ in synonyms],
        [synonym for _, synonym in synonyms],
    )
