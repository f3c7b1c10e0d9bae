"""Search by words: finds records that contain words of a question, among those that meet the criteria.

Few records contain all words of a question in plain language. So one word is enough, and the ranking decides:
records with more words of the question, and with rarer ones, come first. A synonym counts in place of a word.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from datastorage.errors import TransientError
from datastorage.resilience.outcomes import value_or_raise
from datastorage.storage import clues
from datastorage.storage.clues import ClueLimits, ClueResult
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria
from datastorage.storage.keys import key_columns
from datastorage.storage.matches import Match, first_of_each_text
from datastorage.storage.places import Place, place_of
from datastorage.storage.questionforms import MAX_FORMS, QuestionForms
from datastorage.storage.ranking import Ranked, Ranking, RankLimits
from datastorage.storage.readonly import OWN_PLAN, plan_for, reading, set_further
from datastorage.storage.synonyms import SynonymGroups
from datastorage.storage.wordconditions import word_conditions
from datastorage.storage.wording import Clue, Wording, as_searched, joined, tsquery

_log = logging.getLogger(__name__)

_PHRASES: Final = f"""
    SELECT phrase, form::text AS form FROM unnest($1::text[], $2::text[]) AS phrases (phrase, searched),
        LATERAL (SELECT {tsquery("phraseto_tsquery", "searched")} AS form) AS queries
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
class _Required:
    """What every record has to meet: the forms of phrases that it must contain, and that it must not."""

    phrases: Mapping[str, str]
    """By the phrase."""
    excluded: Sequence[str]

    def condition_for(self, clue: Clue) -> str | None:
        """Return the condition on the records that match a clue, or None.

        It does not repeat a phrase that is the clue itself: the clue is also found in texts that are too long
        for the index to know the order of all their words.
        """
        forms = [form for phrase, form in self.phrases.items() if not clue.in_order or phrase != clue.words]
        return (
            " & ".join([*(f"({form})" for form in forms), *(f"!({form})" for form in self.excluded)]) or None
        )


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
        """Return the records that match best, in the order of their share.

        These are the best ``limit`` records by their share, and the best by their information; most are among
        both. Of each text, ``per_text`` are among the best by either.

        A record's share of the question's words counts each by how rare it is, and is smaller for a longer
        record; the information that it has of them does not depend on its length. A synonym of a word counts
        a little less than the word. Returns None when the question has only words that are in every text
        ("the", "what").
        """
        required = await self._required(wording)
        # Over two connections: in a large archive, each takes some tens of milliseconds.
        looking = asyncio.create_task(self._by_clues(criteria, wording.clues, required))
        answers = await asyncio.gather(
            self._ranked(criteria, wording, required, looking, limit=limit, per_text=per_text),
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
        # A search by words counts the share, and a search by both the information.
        by_share = sorted(ranked.values(), key=Match.order)
        by_information = sorted(by_share, key=lambda match: -match.information)
        best = {
            match.place
            for order in (by_share, by_information)
            for match in islice(first_of_each_text(order, lambda match: match, per_text), limit)
        }
        matches = [match for match in by_share if match.place in best]
        return Worded(matches, is_all=of_words.is_all and len(matches) < limit)

    async def _ranked(
        self,
        criteria: Criteria,
        wording: Wording,
        required: _Required,
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
            # To look at all months of a table without records takes each statement a millisecond or two.
            criteria = replace(criteria, tables=criteria.tables & words.tables)
            ranking = Ranking(connection, words, self._limits, per_text, limit)
            conditions = word_conditions(
                words, ranking.room, list(required.phrases.values()), required.excluded
            )
            return await ranking.best(criteria, conditions, lambda: _nothing_has_all(wording, looking))

    async def _by_clues(self, criteria: Criteria, wanted: Sequence[Clue], required: _Required) -> ClueResult:
        if not wanted:
            return ClueResult()
        conditions = [required.condition_for(clue) for clue in wanted]
        # Without the clues, there is still an answer. Nothing else is under their limit.
        async with reading(self._database, seconds=self._clue_limits.seconds) as connection:
            return await clues.find(connection, criteria, wanted, conditions, self._clue_limits)

    async def without(self, places: Sequence[Place], excluded: Sequence[str]) -> set[Place]:
        """Return the rows that contain none of the words and phrases."""
        found: set[Place] = set()
        async with reading(self._database) as connection:
            forms = list((await self._phrases(connection, excluded)).values())
            if not forms:  # all are in every text, and leave out nothing
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

    async def _required(self, wording: Wording) -> _Required:
        if not wording.phrases and not wording.excluded:
            return _Required({}, ())
        async with reading(self._database) as connection:
            phrases = await self._phrases(connection, wording.phrases)
            excluded = await self._phrases(connection, wording.excluded)
            return _Required(phrases, list(excluded.values()))

    @staticmethod
    async def _phrases(connection: Session, phrases: Sequence[str]) -> dict[str, str]:
        """Return the form of each phrase that has one: "the" has none, because it is in every text."""
        if not phrases:
            return {}
        rows = await connection.fetch(_PHRASES, phrases, list(map(as_searched, phrases)))
        return {row["phrase"]: row["form"] for row in rows}


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
