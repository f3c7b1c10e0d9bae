"""Search by words: finds records that contain words of a question, among those that meet the criteria.

Few records contain all words of a question in plain language. So one word is enough, and the ranking decides:
records with more words of the question, and with rarer ones, come first. A synonym counts in place of a word.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from datastorage.errors import TransientError
from datastorage.resilience.outcomes import value_or_raise
from datastorage.storage import clues
from datastorage.storage.clues import ClueLimits, ClueResult
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria
from datastorage.storage.keys import key_columns
from datastorage.storage.matches import Match, best_of_each_text
from datastorage.storage.places import Place, place_of
from datastorage.storage.questionforms import MAX_FORMS, QuestionForms
from datastorage.storage.ranking import Ranked, Ranking, RankLimits
from datastorage.storage.readonly import OWN_PLAN, plan_for, reading, set_further
from datastorage.storage.synonyms import SynonymGroups
from datastorage.storage.wordconditions import word_conditions
from datastorage.storage.wording import Wording, as_searched, joined, tsquery

_log = logging.getLogger(__name__)

_PHRASES: Final = f"""
    SELECT form::text AS form FROM unnest($1::text[]) AS phrases (phrase),
        LATERAL (SELECT {tsquery("phraseto_tsquery", "phrase")} AS form) AS queries
    WHERE numnode(form) > 0
"""  # noqa: S608  # expressions of our own
# Returns the rows that do not match the tsquery $6.
_WITHOUT: Final = """
    SELECT k.place FROM unnest($1::int[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::bytea[])
        AS k (place, uid, generation, created_at, spec_hash)
    JOIN datastorage.{table} AS r USING (uid, generation, created_at, spec_hash)
    WHERE (r.search @@ $6::text::tsquery) IS NOT TRUE
"""


@dataclass(frozen=True, slots=True)
class Worded:
    """The records that match the words of a question best."""

    matches: list[Match]
    """In the order of their share."""
    is_all: bool
    """Whether a larger limit would find no others."""


class FullText:
    """Finds records by words. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(
        self,
        database: Database,
        *,
        synonyms: SynonymGroups = (),
        limits: RankLimits = RankLimits(),
        clue_limits: ClueLimits = ClueLimits(),
    ) -> None:
        """``database`` is that of the records. Its role need only have the right to read them.

        ``synonyms`` are groups of words and phrases that mean the same.
        """
        self._database = database
        self._forms = QuestionForms(synonyms)
        self._limits = limits
        self._clue_limits = clue_limits

    async def find(self, criteria: Criteria, wording: Wording, *, limit: int, per_text: int) -> Worded | None:
        """Return the records that match best, at most ``per_text`` of each text.

        These are ``limit`` records by their share, and as many by their information; most are both.

        A record's share of the question's words counts each by how rare it is, and is smaller for a longer
        record; the information that it has of them does not depend on its length. A synonym of a word counts
        a little less than the word. Returns None when the question has only words that are in every text
        ("the", "what").
        """
        # Over two connections: in a large archive, each takes some tens of milliseconds.
        looking = asyncio.create_task(self._by_clues(criteria, wording))
        answers = await asyncio.gather(
            self._ranked(criteria, wording, looking, limit=limit, per_text=per_text),
            looking,
            return_exceptions=True,  # otherwise one of them would go on after an error of the other
        )
        of_words, by_clues = value_or_raise(answers[0]), _clues_if_looked_up(answers[1])
        if of_words is None:
            return None
        ranked = {match.place: match for match in map(_match, of_words.rows)}
        for record in by_clues.records:
            match = ranked.get(record.place, Match(record.place, record.text_hash))
            ranked[record.place] = replace(match, clue_weight=record.weight)
        best = best_of_each_text(ranked.values(), per_text)
        # A search by both counts the information, and a search by words the share.
        informed = {match.place for match in sorted(best, key=lambda match: -match.information)[:limit]}
        matches = [match for n, match in enumerate(best) if n < limit or match.place in informed]
        return Worded(matches, is_all=of_words.is_all and len(matches) < limit)

    async def _ranked(
        self,
        criteria: Criteria,
        wording: Wording,
        looking: asyncio.Task[ClueResult],
        *,
        limit: int,
        per_text: int,
    ) -> Ranked | None:
        """Return the rows that rank highest; None if the question has no words to look up.

        ``looking`` for the clues goes on meanwhile.
        """
        plan = plan_for(criteria)
        async with reading(self._database, plan=plan) as connection:
            words = await self._forms.find(
                connection, criteria, wording, count_up_to=self._limits.few_records + 1
            )
            if words is None:
                return None
            # How to find the rows depends on how many have the words.
            if plan != OWN_PLAN:
                await set_further(connection, plan=OWN_PLAN)
            phrases, excluded = await self._required_phrases(connection, wording)
            # To look at all months of a table without records takes each statement a millisecond or two.
            criteria = replace(criteria, tables=criteria.tables & words.tables)
            ranking = Ranking(connection, words, self._limits, per_text, limit)
            conditions = word_conditions(words, ranking.room, phrases, excluded)
            return await ranking.best(criteria, conditions, lambda: _nothing_has_all(wording, looking))

    async def _by_clues(self, criteria: Criteria, wording: Wording) -> ClueResult:
        if not wording.clues:
            return ClueResult()
        required = None
        if wording.phrases or wording.excluded:
            async with reading(self._database) as connection:
                required = _required(*await self._required_phrases(connection, wording))
        # Without the clues, there is still an answer. Nothing else is under their limit.
        async with reading(self._database, seconds=self._clue_limits.seconds) as connection:
            return await clues.find(connection, criteria, wording.clues, required, self._clue_limits)

    async def without(self, places: Sequence[Place], excluded: Sequence[str]) -> set[Place]:
        """Return the rows that contain none of the words and phrases."""
        found: set[Place] = set()
        async with reading(self._database) as connection:
            forms = await self._phrases(connection, excluded)
            if not forms:  # all are in every text, such as "the", and leave out nothing
                return set(places)
            for table in {place.table for place in places}:
                numbered = [(n, place.key) for n, place in enumerate(places) if place.table is table]
                rows = await connection.fetch(
                    _WITHOUT.format(table=table.value),
                    [n for n, _ in numbered],
                    *key_columns([key for _, key in numbered]),
                    joined(" | ", forms),
                )
                found.update(places[row["place"]] for row in rows)
        return found

    async def _required_phrases(
        self, connection: Session, wording: Wording
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Return the forms of the phrases that a record must contain, and of those that it must not."""
        return (
            await self._phrases(connection, wording.phrases),
            await self._phrases(connection, wording.excluded),
        )

    @staticmethod
    async def _phrases(connection: Session, phrases: Sequence[str]) -> list[str]:
        return (
            [row["form"] for row in await connection.fetch(_PHRASES, list(map(as_searched, phrases)))]
            if phrases
            else []
        )


def _clues_if_looked_up(outcome: ClueResult | BaseException) -> ClueResult:
    """Return what the clues have found: nothing where PostgreSQL did not serve, since there is a ranking."""
    if isinstance(outcome, TransientError):
        _log.info("The answer is the ranking alone, because clues could not be looked up: %s", outcome)
        return ClueResult()
    return value_or_raise(outcome)


def _match(row: Any) -> Match:
    return Match(place_of(row), row["text_hash"], row["share"], information=row["information"])


def _nothing_has_all(wording: Wording, looking: asyncio.Task[ClueResult]) -> bool:
    """Return whether it is known already that no record has all words of the question that count."""
    if len(wording.words) > MAX_FORMS:  # the others do not count
        return False
    # Nobody waits for the clues: who holds a connection must not wait for a task that needs another one.
    if not looking.done() or looking.cancelled() or looking.exception():
        return False
    return wording.of_all_words in looking.result().unmatched


def _required(phrases: Sequence[str], excluded: Sequence[str]) -> str | None:
    """Return the condition that every record has to meet, or None."""
    return " & ".join([*(f"({form})" for form in phrases), *(f"!({form})" for form in excluded)]) or None
