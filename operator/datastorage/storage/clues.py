"""The few records that have a clue of a question: an identifier, a quoted phrase, all of its words.

A clue that many records have singles none of them out, and is left to the ranking.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from datastorage.records.hashes import NO_TEXT
from datastorage.storage.connection.sessions import Session, transaction
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.pages import Place, place_of

_log = logging.getLogger(__name__)

# For each clue ($1 to $4) the rows that have it. Its words find them in the index, which knows of no order;
# then their places decide. PostgreSQL keeps 255 places of a word in a text, of two bytes each, and none
# beyond 16,383: where a word of the clue has lost some, the text itself is looked at, in a few rows ($8).
# $5: a further condition.
CLUES: Final = with_conditions(r"""
    WITH clues AS MATERIALIZED (
        SELECT number, CASE WHEN $5::text IS NULL THEN words ELSE words && $5::text::tsquery END AS words,
            CASE WHEN in_order THEN phrase ELSE words END AS form, lexemes, pattern
        FROM unnest($1::text[], $2::boolean[], $3::int[], $4::text[])
            WITH ORDINALITY AS given (clue, in_order, least, pattern, number),
            plainto_tsquery('english'::regconfig, clue) AS words,
            phraseto_tsquery('english'::regconfig, clue) AS phrase,
            tsvector_to_array(to_tsvector('english'::regconfig, clue)) AS lexemes
        WHERE numnode(phrase) >= 2 * least - 1)
    SELECT clues.number, found.* FROM clues CROSS JOIN LATERAL (
        WITH with_words AS MATERIALIZED (
            (SELECT 'audit_records' AS table_name, r.uid, r.generation, r.created_at, r.spec_hash,
                r.text_hash, r.search, r.content
            FROM datastorage.audit_records AS r
            WHERE {of_audit_records} AND r.search @@ clues.words LIMIT $6)
            UNION ALL
            (SELECT 'action_traces', r.uid, r.generation, r.created_at, r.spec_hash, r.text_hash, r.search,
                r.content
            FROM datastorage.action_traces AS r
            WHERE {of_action_traces} AND r.search @@ clues.words AND {newest} LIMIT $6))
        SELECT table_name, uid, generation, created_at, spec_hash, text_hash
        FROM with_words WHERE search @@ form
        UNION ALL
        SELECT table_name, uid, generation, created_at, spec_hash, text_hash FROM (
            SELECT *, row_number() OVER (PARTITION BY table_name) AS nth FROM with_words
            WHERE NOT search @@ form AND pg_column_size(search) > 500
                AND EXISTS (SELECT FROM unnest(search) AS known (lexeme, places, weights)
                    WHERE known.lexeme = ANY (clues.lexemes)
                        AND (cardinality(places) >= 255 OR places[cardinality(places)] >= 16383))) AS unsure
        WHERE CASE WHEN nth <= $8 THEN convert_from(content, 'UTF8') ~* pattern END
        LIMIT $7) AS found
""")
# A shorter limit of the server's own stays.
_LIMIT: Final = """
    SELECT before, set_config('statement_timeout',
        CASE WHEN before::interval > '0' AND before::interval < $1::text::interval THEN before ELSE $1 END,
        true)
    FROM current_setting('statement_timeout') AS before
"""
_LIMIT_BEFORE: Final = "SELECT set_config('statement_timeout', $1, true)"

_BETWEEN: Final = r"(?:[^[:alnum:]]|\\[nrtbf])"


@dataclass(frozen=True, slots=True)
class ClueLimits:
    """How much is looked at for the clues of a question."""

    events: int = 8
    """A clue of more events singles none of them out, and this many leave room on a page of ten. Records with
    the same text are one event. Measured with benchmarks/search."""
    rows: int = 100
    """Rows of one clue: a few events that come again and again."""
    candidates: int = 1_000
    """Rows of each table that have all words of a clue, and are looked at for their order."""
    texts: int = 20
    """Rows of each table whose texts are read, each of 1.5 MB at most. The others count as without
    the clue."""
    seconds: float = 1.5
    """The time for all clues of a question: a hundred times what they take where no text is read. The ranking
    that waits for them is an answer without them."""


@dataclass(frozen=True, slots=True)
class Clue:
    """Words of a question that together single out the records that have them."""

    words: str
    """Letters and digits, with blanks between."""
    in_order: bool = True
    """Whether the words must stand beside each other."""
    least: int = 1
    """Of how many words it has to consist without those that are in every text, such as "the"."""

    @property
    def pattern(self) -> str:
        """The regular expression of the words beside each other, in a text as JSON has it."""
        return f"(?:^|{_BETWEEN}){f'{_BETWEEN}+'.join(self.words.split())}(?:$|[^[:alnum:]])"


@dataclass(frozen=True, slots=True)
class Found:
    """A record that has clues."""

    place: Place
    text_hash: bytes | None
    weight: float
    """More for a clue that fewer records have, then for more and longer clues; 1 at least."""


async def find(
    connection: Session,
    criteria: Criteria,
    clues: Sequence[Clue],
    condition: str | None,
    limits: ClueLimits = ClueLimits(),
) -> list[Found]:
    """Return the records that have a clue which few have, among those that meet criteria and condition.

    The condition is a tsquery, or None. None is found where that takes too long, and the connection's
    transaction goes on.
    """
    if not clues:
        return []
    arguments = (
        [clue.words for clue in clues], [clue.in_order for clue in clues], [clue.least for clue in clues],
        [clue.pattern for clue in clues], condition, limits.candidates, limits.rows, limits.texts,
        *criteria.arguments,
    )  # fmt: skip
    try:
        async with transaction(connection):  # a savepoint: going back to it restores the limit, too
            before = await connection.fetchval(_LIMIT, f"{limits.seconds * 1000:.0f}ms")
            rows = await connection.fetch(CLUES, *arguments)
            await connection.execute(_LIMIT_BEFORE, before)
    except asyncpg.QueryCanceledError:
        _log.info("Finding the records that a question singles out took too long; the ranking alone answers")
        return []
    having: dict[int, dict[Place, bytes | None]] = {}
    for row in rows:
        having.setdefault(row["number"] - 1, {})[place_of(row)] = row["text_hash"]
    rarity: dict[Place, int] = {}
    said: Counter[Place] = Counter()
    texts: dict[Place, bytes | None] = {}
    for number, places in having.items():
        events = len({place if text in {None, NO_TEXT} else text for place, text in places.items()})
        if len(places) < limits.rows and events <= limits.events:
            texts |= places
            for place in places:
                rarity[place] = max(limits.events - events, rarity.get(place, 0))
                said[place] += len(clues[number].words)
    most = 1 + sum(len(clue.words) for clue in clues)
    return [Found(place, text, 1 + rarity[place] + said[place] / most) for place, text in texts.items()]
