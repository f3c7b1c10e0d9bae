"""Search by words: finds records that contain words of a question, among those that meet the criteria.

Few records contain all words of a question in plain language. So one word is enough, and the ranking decides:
records with more words of the question, and with rarer ones, come first. A synonym counts in place of a word.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from datastorage.records.record import Table
from datastorage.resilience.outcomes import value_or_raise
from datastorage.storage import clues
from datastorage.storage.clues import ClueLimits
from datastorage.storage.connection.database import Database
from datastorage.storage.connection.sessions import Session
from datastorage.storage.criteria import Criteria, Scope, with_conditions
from datastorage.storage.keys import key_columns
from datastorage.storage.matches import Match, best_of_each_text
from datastorage.storage.places import Place, place_of
from datastorage.storage.questionforms import Form, QuestionForms, QuestionWords
from datastorage.storage.readonly import OWN_PLAN, change_plan, plan_for, reading
from datastorage.storage.synonyms import Groups
from datastorage.storage.wording import Wording, as_searched, tsquery

_PHRASES: Final = f"""
    SELECT form::text AS form FROM unnest($1::text[]) AS phrases (phrase),
        LATERAL (SELECT {tsquery("phraseto_tsquery", "phrase")} AS form) AS queries
    WHERE numnode(form) > 0
"""  # noqa: S608  # expressions of our own
# Returns the rows that contain none of the phrases.
_WITHOUT: Final = f"""
    SELECT k.place FROM unnest($1::int[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::bytea[])
        AS k (place, uid, generation, created_at, spec_hash)
    JOIN datastorage.{{table}} AS r USING (uid, generation, created_at, spec_hash)
    WHERE NOT EXISTS (SELECT FROM unnest($6::text[]) AS phrases (phrase)
        WHERE r.search @@ {tsquery("phraseto_tsquery", "phrase")})
"""  # noqa: S608  # expressions of our own


def _rows(table: Table) -> str:
    """Return the SQL for the rows of a table that meet the condition and the criteria."""
    return f"""SELECT r.uid, r.generation, r.created_at, r.spec_hash, r.diverged, r.text_hash, r.search
        FROM datastorage.{table} AS r WHERE {{of_{table}}} AND r.search @@ $1::text::tsquery"""  # noqa: S608


# Ranks the newest rows of each table, $8 at most, that meet the condition $1; also returns the tables that
# have so many. PostgreSQL finds all rows first, by the index of their words: if it knew of the limit, it
# would rather walk the rows from the newest one, and so read the whole archive for a word that it believes
# more frequent than it is.
#
# A share is a sum over the words ($2), divided by all weights ($3): each counts its weight times its
# frequency in the record, relative to the record's length. One of its synonyms ($5: all of a word in one, $7:
# each, $6: the number of its word) counts instead, with the weight $4, if that is more. The frequency of a
# phrase is the mean of those of its words: the rank of a phrase has another scale.
_FIND: Final = with_conditions(f"""
    WITH records AS MATERIALIZED ({_rows(Table.AUDIT_RECORDS)}),
    traces AS MATERIALIZED ({_rows(Table.ACTION_TRACES)}),
    matching AS MATERIALIZED (
        (SELECT 'audit_records' AS table_name, r.* FROM records AS r ORDER BY created_at DESC LIMIT $8)
        UNION ALL
        (SELECT 'action_traces', r.* FROM (SELECT * FROM traces ORDER BY created_at DESC OFFSET 0) AS r
        WHERE {{newest}} LIMIT $8)),
    words AS MATERIALIZED (
        SELECT form::tsquery AS form, weight, synonym_weight, any_of::tsquery AS any_of, number
        FROM unnest($2::text[], $3::float8[], $4::float8[], $5::text[])
            WITH ORDINALITY AS given (form, weight, synonym_weight, any_of, number)),
    synonyms AS MATERIALIZED (
        SELECT number, synonym::tsquery AS form,
            regexp_replace(synonym, '<(-|[0-9]+)>', '|', 'g')::tsquery AS words
        FROM unnest($6::int[], $7::text[]) AS given (number, synonym)),
    ranked AS (
        SELECT table_name, uid, generation, created_at, spec_hash, text_hash,
            (SELECT sum(greatest(weight * ts_rank(search, form, 1), CASE WHEN search @@ any_of THEN
                synonym_weight * (SELECT max(ts_rank(search, s.words, 1)) FROM synonyms AS s
                    WHERE s.number = words.number AND search @@ s.form) END)) / sum(weight)
            FROM words) AS share
        FROM matching),
    numbered AS (
        SELECT *, row_number() OVER (
            PARTITION BY coalesce(nullif(text_hash, sha256('')), uuid_send(uid))
            ORDER BY share DESC, created_at DESC, uid, generation DESC, spec_hash) AS number
        FROM ranked)
    SELECT table_name, uid, generation, created_at, spec_hash, text_hash, share,
        ARRAY(SELECT m.table_name FROM matching AS m GROUP BY 1 HAVING count(*) = $8) AS full_tables
    FROM numbered WHERE number <= $9
    ORDER BY share DESC, created_at DESC, uid, generation DESC, spec_hash LIMIT $10
""")  # noqa: S608  # the names of our own tables
# In an archive with many records, words that together are in more than this share of them select no records,
# and only affect the ranking: the newest few hundred records with a common word could miss the best ones.
_COMMON: Final = 0.02
# A smaller share is not well known: five of the thousand newest records, or fewer.
_KNOWN_SHARE: Final = 0.005
# The newest records with a word are looked for in a time that is so many times as long as should be enough,
# and at last in all time.
_WIDER: Final = (2, 16, 128)


@dataclass(frozen=True, slots=True)
class RankLimits:
    """Limits on the number of records that are ranked for a question."""

    ranked: int = 1_500
    """Rows of each table that are ranked."""
    ranked_of_many: int = 300
    """The same in an archive with many records. Between two rows with a common word are fifty others, and
    reading those takes most of the time."""
    few_records: int = 5_000
    """Up to this many records in the archive, words select records only if all of them can be ranked."""

    def ranked_of(self, total: int) -> int:
        """Return the number of rows that are ranked where ``total`` records meet the criteria."""
        return self.ranked if total <= self.few_records else self.ranked_of_many

    def common_from(self, total: int) -> float:
        """Return the share of the records up to which all records with a word can be ranked."""
        return _COMMON if total > self.few_records else self.ranked / max(total, 1)


class FullText:
    """Finds records by words. All methods raise TransientError when PostgreSQL can't serve."""

    def __init__(
        self,
        database: Database,
        *,
        synonyms: Groups = (),
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

    async def find(
        self, criteria: Criteria, wording: Wording, *, limit: int, per_text: int
    ) -> list[Match] | None:
        """Return the records that match best, at most ``per_text`` of each text.

        The share of the question's words that a record has counts each by how rare it is, and is the less the
        longer the record is. A synonym of a word counts a little less than the word. Returns None when the
        question has only words that are in every text ("the", "what").
        """
        # Over two connections: in a large archive, each takes some tens of milliseconds.
        answers = await asyncio.gather(
            self._ranked(criteria, wording, limit=limit, per_text=per_text),
            self._with_clues(criteria, wording),
            return_exceptions=True,  # otherwise one of them would go on after an error of the other
        )
        rows, found = value_or_raise(answers[0]), value_or_raise(answers[1])
        if rows is None:
            return None
        ranked = {place_of(row): Match(place_of(row), row["text_hash"], row["share"]) for row in rows}
        for record in found:
            share = ranked[record.place].share if record.place in ranked else 0.0
            ranked[record.place] = Match(record.place, record.text_hash, share, record.weight)
        return best_of_each_text(ranked.values(), per_text)[:limit]

    async def _ranked(
        self, criteria: Criteria, wording: Wording, *, limit: int, per_text: int
    ) -> Sequence[Any] | None:
        """Return the rows that rank highest; None if the question has no words to look up."""
        plan = plan_for(criteria)
        async with reading(self._database, plan=plan) as connection:
            words = await self._forms.find(
                connection, criteria, wording, count_up_to=self._limits.few_records + 1
            )
            if words is None:
                return None
            # How to find the rows depends on how many have the words.
            await change_plan(connection, plan, OWN_PLAN)
            room = self._limits.common_from(words.total)
            conditions = _conditions(words, room, *await self._required_phrases(connection, wording))
            ranking = _Ranking(
                connection, words, max(limit, self._limits.ranked_of(words.total)), per_text, limit
            )
            rows, full = await ranking.newest(criteria, conditions.words, conditions.share)
            if full and conditions.all_words is not None:
                within = replace(criteria, tables=full)
                rows += (await ranking.newest(within, conditions.all_words, words.all_words_share))[0]
            if conditions.synonyms is not None:
                rows += (await ranking.newest(criteria, conditions.synonyms, conditions.synonym_share))[0]
            return rows

    async def _with_clues(self, criteria: Criteria, wording: Wording) -> Sequence[clues.Found]:
        if not wording.clues:
            return []
        async with reading(self._database) as connection:
            required = _required(*await self._required_phrases(connection, wording))
            return await clues.find(connection, criteria, wording.clues, required, self._clue_limits)

    async def without(self, places: Sequence[Place], excluded: Sequence[str]) -> set[Place]:
        """Return the rows that contain none of the words and phrases."""
        found: set[Place] = set()
        async with reading(self._database) as connection:
            for table in Table:
                numbered = [(n, place.key) for n, place in enumerate(places) if place.table is table]
                rows = await connection.fetch(
                    _WITHOUT.format(table=table.value),
                    [n for n, _ in numbered],
                    *key_columns([key for _, key in numbered]),
                    list(map(as_searched, excluded)),
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


@dataclass(frozen=True, slots=True)
class _Conditions:
    """Conditions on the records, of which one that is ranked meets at least one."""

    words: str
    share: float
    """The share of the records that meet it, if none has two of its words; 1 if it is not known."""
    all_words: str | None = None
    """A narrower one, for where more records meet the first than are ranked."""
    synonyms: str | None = None
    """One about synonyms, if their records could displace some of the first condition."""
    synonym_share: float = 0.0


class _Ranking:
    """Ranks the newest records that meet a condition by the words of a question."""

    def __init__(
        self, connection: Session, words: QuestionWords, ranked: int, per_text: int, limit: int
    ) -> None:
        """``ranked`` is the number of records of each kind that are ranked. The others limit the answer."""
        self._connection = connection
        self._words = words
        self._ranked = ranked
        self._arguments = (*_arguments(words.forms), ranked, per_text, limit)

    async def newest(
        self, criteria: Criteria, condition: str, share: float
    ) -> tuple[list[Any], frozenset[Table]]:
        """Do the same as ``all``, for a condition that about this share of the records meets.

        Where many meet it, finding all of them would take long. So the rows are looked for in the time in
        which there should be enough of them, and in longer ones if there are not.
        """
        rows: list[Any] = []
        full: frozenset[Table] = frozenset()
        for since in self._times(share):
            within = replace(criteria, tables=criteria.tables - full).within(Scope(since=since))
            more_rows, also_full = await self.all(within, condition)
            rows, full = rows + more_rows, full | also_full
            if full == criteria.tables:
                break
        return rows, full

    def _times(self, share: float) -> Iterator[datetime | None]:
        """Yield the times since which to look for the rows, one after the other; None for all time."""
        if share >= _KNOWN_SHARE:
            times = (self._words.since(self._ranked / share * wider) for wider in _WIDER)
            yield from (time for time in times if time is not None)
        yield None

    async def all(self, criteria: Criteria, condition: str) -> tuple[list[Any], frozenset[Table]]:
        """Return the rows that rank highest, and the tables of which not all rows were ranked."""
        rows = await self._connection.fetch(_FIND, condition, *self._arguments, *criteria.arguments)
        return list(rows), frozenset(map(Table, rows[0]["full_tables"] if rows else ()))


def _conditions(
    words: QuestionWords, room: float, phrases: Sequence[str], excluded: Sequence[str]
) -> _Conditions:
    """Return the conditions that the words of a question make."""
    without = "".join(f" & !({form})" for form in excluded)
    if phrases:
        return _Conditions(_joined(" & ", phrases) + without, 1.0)
    own = {form.text: form.share for form in words.forms}
    some = _rare(own, room)
    synonyms = {_joined(" | ", form.synonyms): form.synonym_share for form in words.forms if form.synonyms}
    others = _rare(synonyms, room)
    share, synonym_share = sum(own[form] for form in some), sum(synonyms[form] for form in others)
    is_room = share + synonym_share <= room
    return _Conditions(
        f"({_joined(' | ', [*some, *others] if is_room else some)}){without}",
        share + synonym_share if is_room else share,
        _joined(" & ", own) + without if len(some) < len(own) else None,
        f"({_joined(' | ', others)}){without}" if others and not is_room else None,
        synonym_share,
    )


def _arguments(forms: Sequence[Form]) -> tuple[Sequence[Any], ...]:
    """Return the arguments for the words and their synonyms."""
    synonyms = [(number, each) for number, form in enumerate(forms, 1) for each in form.synonyms]
    return (
        [form.text for form in forms],
        [form.weight for form in forms],
        [form.synonym_weight for form in forms],
        [_joined(" | ", form.synonyms) or None for form in forms],
        [number for number, _ in synonyms],
        [synonym for _, synonym in synonyms],
    )


def _required(phrases: Sequence[str], excluded: Sequence[str]) -> str | None:
    """Return the condition that every record has to meet, or None."""
    return " & ".join([*(f"({form})" for form in phrases), *(f"!({form})" for form in excluded)]) or None


def _rare(shares: Mapping[str, float], room: float) -> list[str]:
    """Return the forms that select records: the rarest one, and others as long as all together are rare."""
    chosen: list[str] = []
    total = 0.0
    for form in sorted(shares, key=shares.__getitem__):
        total += shares[form]
        if chosen and total > room:
            break
        chosen.append(form)
    return chosen


def _joined(operator: str, forms: Iterable[str]) -> str:
    return operator.join(f"({form})" for form in forms)
