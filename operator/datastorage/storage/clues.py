"""Finds the few records that match a clue: an identifier or quoted phrase in a question, or all its words.

A clue that many records match singles out none of them, so it is ignored: the ranking orders those records.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from datastorage.records.hashes import NO_TEXT
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.places import Place, place_of
from datastorage.storage.wording import Clue, as_searched, tsquery

_log = logging.getLogger(__name__)

# Finds the rows that match each clue ($1 to $4). The index finds the rows that contain its words in any
# order, once for clues that differ in nothing but the order required. (Their texts are compared, because
# PostgreSQL takes a word for equal to its beginning, 'abc':*.) The positions of the words then show whether
# the order matches. PostgreSQL keeps up to 255 positions of a word in a text, and none beyond 16,383. If
# positions are missing, the text itself is read, for a few rows ($8). $5 are further conditions, one for each
# clue. A clue with $7 rows or more is ignored; for one with none, the number is returned alone.
#
# To look at each word of a row takes long, so it is done only where three conditions, each cheaper than the
# next, leave it possible that positions are missing. A position takes two bytes, and a word at least ten with
# its first one; an uncompressed value shows so at once that no word has 255 of them. A record has at most two
# words per byte (one sign that stands for six others has three bytes), so that all those of its text are
# before the last position if it is below 8,000 bytes. The parts of words in camel case come after them.
CLUES: Final = with_conditions(rf"""
    WITH clues AS MATERIALIZED (
        SELECT number,
            CASE WHEN condition IS NULL THEN words ELSE words && condition::tsquery END AS words,
            CASE WHEN in_order THEN phrase ELSE words END AS form, lexemes, pattern
        FROM unnest($1::text[], $2::boolean[], $3::int[], $4::text[], $5::text[])
            WITH ORDINALITY AS given (clue, in_order, min_words, pattern, condition, number),
            LATERAL (SELECT {tsquery("plainto_tsquery", "clue")} AS words,
                {tsquery("phraseto_tsquery", "clue")} AS phrase,
                tsvector_to_array(to_tsvector('english'::regconfig, clue)) AS lexemes) AS queries
        WHERE numnode(phrase) >= 2 * min_words - 1)
    SELECT found.* FROM (SELECT DISTINCT ON (words::text) words FROM clues) AS lookups CROSS JOIN LATERAL (
        WITH with_words AS MATERIALIZED (
            (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash,
                r.text_hash, r.search, r.content
            FROM datastorage.audit_records AS r
            WHERE {{of_audit_records}} AND r.search @@ lookups.words LIMIT $6)
            UNION ALL
            (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash, r.text_hash, r.search,
                r.content
            FROM datastorage.action_traces AS r
            WHERE {{of_action_traces}} AND r.search @@ lookups.words AND {{newest}} LIMIT $6))
        SELECT clues.number, matching.* FROM clues LEFT JOIN LATERAL (
            SELECT *, count(*) OVER () AS rows FROM (
                SELECT table_name, uid, generation, created_at, spec_hash, text_hash
                FROM with_words WHERE search @@ clues.form
                UNION ALL
                SELECT table_name, uid, generation, created_at, spec_hash, text_hash FROM (
                    SELECT *, row_number() OVER (PARTITION BY table_name) AS nth FROM with_words
                    WHERE NOT search @@ clues.form
                        AND (octet_length(content) >= 8000 OR (
                            (pg_column_compression(search) IS NOT NULL
                                OR pg_column_size(search) >= 10 * length(search) + 500)
                            AND pg_column_size(search || ''::tsvector) >=
                                pg_column_size(ts_delete(search, clues.lexemes)) + 2 * 255))
                        AND EXISTS (SELECT FROM unnest(search) AS known (lexeme, places, weights)
                            WHERE known.lexeme = ANY (clues.lexemes)
                                AND (cardinality(places) >= 255 OR places[cardinality(places)] >= 16383))
                    ) AS unsure
                WHERE CASE WHEN nth <= $8 THEN convert_from(content, 'UTF8') ~* clues.pattern END
                LIMIT $7) AS first_rows) AS matching ON true
        WHERE clues.words::text = lookups.words::text AND coalesce(matching.rows, 0) < $7) AS found
""")  # noqa: S608  # expressions of our own


@dataclass(frozen=True, slots=True)
class ClueLimits:
    """Limits on the work for the clues of a question."""

    events: int = 8
    """A clue that matches more events than this is ignored. Records with the same text are one event. The
    number leaves room for other records on a page of ten; it was measured with benchmarks/search."""
    rows: int = 100
    """A clue that matches this many rows or more is ignored, too: it leaves room for a few events that recur
    often."""
    candidates: int = 1_000
    """Rows of each table that contain all words of a clue, and whose word order is checked."""
    texts: int = 20
    """Rows of each table whose texts are read, each of 1.5 MB at most. Further rows count as not matching."""
    seconds: float = 1.5
    """The time limit for all clues of a question, a hundred times as long as they take when no text is read.
    After that, the clues are ignored."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record that matches at least one clue."""

    place: Place
    text_hash: bytes | None
    weight: float
    """At least 1. It is higher for a clue that fewer records match, then for more and longer clues."""


@dataclass(frozen=True, slots=True)
class ClueResult:
    """What was found by the clues of a question."""

    records: tuple[Found, ...] = ()
    """The records that match a rare clue."""
    unmatched: tuple[Clue, ...] = ()
    """The clues for which no record was found. None matches such a clue if it has no order; of one with an
    order, not all texts are read."""


async def find(
    connection: Session,
    criteria: Criteria,
    clues: Sequence[Clue],
    conditions: Sequence[str | None],
    limits: ClueLimits,
) -> ClueResult:
    """Look for the clues, among the records that meet the criteria, and for each clue a condition of its own.

    A condition is a tsquery, or None. If the search takes longer than the connection's time limit, the
    result is empty, and the connection's transaction has failed. All other errors are those of asyncpg;
    ``reading`` translates them.
    """
    if not clues:
        return ClueResult()
    arguments = (
        [as_searched(clue.words) for clue in clues], [clue.in_order for clue in clues],
        [clue.min_words for clue in clues], [clue.pattern for clue in clues], conditions,
        limits.candidates, limits.rows, limits.texts, *criteria.arguments,
    )  # fmt: skip
    try:
        rows = await connection.fetch(CLUES, *arguments)
    except asyncpg.QueryCanceledError:
        _log.info("Searching for the clues of a question took too long; the answer is the ranking alone")
        return ClueResult()
    return ClueResult(
        tuple(_singled_out([row for row in rows if row["uid"] is not None], clues, limits.events)),
        tuple(clues[row["number"] - 1] for row in rows if row["uid"] is None),
    )


def _singled_out(rows: Sequence[Any], clues: Sequence[Clue], max_events: int) -> list[Found]:
    """Return the records of the rows that match a clue of few events, with their weights."""
    places_of_clue: dict[int, dict[Place, bytes | None]] = {}
    for row in rows:
        places_of_clue.setdefault(row["number"] - 1, {})[place_of(row)] = row["text_hash"]
    rarity: dict[Place, int] = {}
    matched_characters: Counter[Place] = Counter()
    texts: dict[Place, bytes | None] = {}
    for number, places in places_of_clue.items():
        events = len({place if text in {None, NO_TEXT} else text for place, text in places.items()})
        if events <= max_events:
            texts |= places
            for place in places:
                rarity[place] = max(max_events - events, rarity.get(place, 0))
                matched_characters[place] += len(clues[number].words)
    max_characters = 1 + sum(len(clue.words) for clue in clues)
    return [
        Found(place, text, 1 + rarity[place] + matched_characters[place] / max_characters)
        for place, text in texts.items()
    ]
