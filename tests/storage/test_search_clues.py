"""A record that alone has the exact words of a question comes first, whatever is near in meaning."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from datastorage.embedding.wordllama import WordLlamaProvider
from datastorage.errors import EmbedderUnavailableError, InvalidQueryError
from datastorage.query.absentidentifiers import absent_identifiers
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.searchresult import SearchResult
from datastorage.storage import clues, fulltext
from datastorage.storage.clues import ClueLimits, ClueResult
from datastorage.storage.criteria import Criteria
from datastorage.storage.readonly import reading
from datastorage.storage.wording import Clue
from harness.objects import TRACE_SPEC, action_trace, audit_record
from harness.postgres import TestDatabase, TestDatabases
from tests.support.archive import PATIENT, SearchableArchive, searchable

_SPEC = {"type": "Remediation", "action": "act", "phase": "Completed"}
_NUMBERS = count(1)
_NAME = "SELECT name FROM datastorage.audit_records WHERE uid = $1"
_SHA512 = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" * 2
_IDENTIFIERS = {
    "ipv4": "10.4.7.19",
    "ipv4 of one number": "10.10.10.10",
    "ipv6": "2001:db8::8a2e:370:7334",
    "port": "10.0.7.33:5432",
    "cidr": "172.20.0.0/14",
    "mac": "00:1a:2b:3c:4d:5e",
    "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "sha512": _SHA512,
    "short digest": "3b18e512dba7",
    "letters for a digest": "deadbeefcafe",
    "sqlstate": "40P01",
    "sqlstate of digits": "23505",
    "error code": "E1234",
    "oracle": "ORA-00060",
    "cve": "CVE-2024-3094",
    "status": "0xC0000135",
    "exponent": "12e34",
    "negative": "errno -104",
    "uid": "6f1c2b7e-91d3-4a53-9c7e-2a8f4d3b5c60",
    "pod": "checkout-7d9f8bc4c6-x2k9p",
    "path": "/var/lib/kubelet/pods/volumes.json",
    "windows path": r"C:\ProgramData\agent\agent.log",
    "url": "https://grafana.example.com/d/abc?var-pod=x#top",
    "version": "v1.29.4-rc1",
    "plain version": "7.2.11",
    "class": "com.example.shop.layer77.Handler77.handle",
    "line": "main.go:214",
    "mail": "oncall@example.org",
    "flag": "--max-old-space-size=4096",
    "snake": "nf_conntrack_max",
    "signal": "SIGBUS",
    "exception": "ConcurrentModificationException",
    "exit code": "exit code 139",
    "node": "rack 9",
    "unicode": "größe-über-42",
    "quoted": '"remaining connection slots are reserved"',
    "quoted with stop words": '"it was the last of the leases"',
    "curly": "“quorum was gone for good”",
}
_QUESTIONS = (
    "{}",
    "what happened to {} yesterday?",
    "why did pods fail after ({}), and who restarted the deployment?",
    "Restarted the api: {}",
)


def _record(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a record of an incident of its own."""
    return audit_record({**_SPEC, "correlationID": f"rr-{next(_NUMBERS)}", **spec}, **metadata)


def _trace(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return action_trace({**TRACE_SPEC, "correlationID": f"rr-{next(_NUMBERS)}", **spec}, **metadata)


def _messages() -> Iterator[str]:
    """Yield hundreds of texts that are near to all of the questions, and have numbers like theirs."""
    chance = random.Random(7)
    for number in range(300):
        verb = chance.choice(["Restarted", "Rolled back", "Scaled", "Drained", "Evicted"])
        thing = chance.choice(["the api pod", "the deployment checkout", "a node", "the database"])
        why = chance.choice(["refused connections", "was out of memory", "failed with an error", "hung"])
        yield (
            f"{verb} {thing} yesterday after pods failed: upstream {why} at 10.{number}.7.{number % 200}, "
            f"{number % 20} of 19 from 4 to 7, exit code {number % 3}, digest sha256 {number:016x}"
        )


def _body(place: str, name: str, said: str) -> dict[str, Any]:
    text = f"Restarted the api pod, since upstream failed with {said} and the deployment was stuck"
    match place:
        case "message" | "errorMessage":
            return _record({place: text}, name=name)
        case "action":
            return _record({"action": said[:100]}, name=name)
        case "resourceRef":
            ref = {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": said}
            return _record({"message": "Restarted the api pod", place: ref}, name=name)
        case "targetRef":
            ref = {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": said}
            return _trace({place: ref}, name=name)
        case "reasoning":
            return _trace({"model": {place: text}}, name=name)
        case "error":
            return _trace({"execution": {place: text}}, name=name)
        case _:
            return _trace({"effectiveness": {place: text}}, name=name)


_SHAPES = (
    "10.#.#.#", "XX-@@@@@", "$$$$$$$$$$$$", "v@@.@@.@@", "$$$$$$$$-$$$$-4$$$-9$$$-$$$$$$$$$$$$", "0x$$$$$$$$",
    "/srv/#/$$$$/#.log", "X@@@@", "xxx-$$$$$$$$$$-xxxxx", "xxx.xxx.example.com:@@@@", "@@@@@@",
    "2001:db8:$$$$::$$$",
)  # fmt: skip


def _drawn() -> list[str]:
    chance = random.Random(11)
    draws = {
        "#": lambda: str(chance.randrange(256)), "@": lambda: chance.choice("0123456789"),
        "$": lambda: chance.choice("0123456789abcdef"), "x": lambda: chance.choice("bcdfghjklm"),
        "X": lambda: chance.choice("BCDFGHJKLM"),
    }  # fmt: skip
    return ["".join(draws.get(c, lambda c=c: c)() for c in shape) for shape in _SHAPES for _ in range(6)]


_DRAWN = _drawn()
_FREE = ("message", "errorMessage", "reasoning", "notes", "error", "action", "resourceRef", "targetRef")


def _inside(identifier: str) -> str:
    return identifier.strip('"“”')


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """Hundreds of distractors, and of each identifier one record, in another field each time."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database, provider=WordLlamaProvider()) as made:
            await made.put(*(_record({"message": text}) for text in _messages()))
            await made.put(
                *(
                    _body(_FREE[number % len(_FREE)], kind, _inside(identifier))
                    for number, (kind, identifier) in enumerate(_IDENTIFIERS.items())
                ),
                *(_body(place, place, f"K{number}77-{place}") for number, place in enumerate(_FREE)),
                *(_body("message", f"drawn-{number}", said) for number, said in enumerate(_DRAWN)),
            )
        return database

    return asyncio.run(fill())


@pytest_asyncio.fixture
async def archive(filled: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(filled, provider=WordLlamaProvider()) as made:
        yield made


def names(result: SearchResult) -> list[str]:
    return [hit.record.name for hit in result.hits]


@pytest.mark.parametrize("kind", _IDENTIFIERS)
async def test_the_only_record_with_it_comes_first(archive: SearchableArchive, kind: str) -> None:
    for question in _QUESTIONS:
        asked = question.format(_IDENTIFIERS[kind])
        result = await archive.ask.search(asked)
        assert kind in names(result)[:2], asked
        assert result.mode is SearchMode.HYBRID
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("place", _FREE)
async def test_it_is_found_wherever_it_stands(archive: SearchableArchive, place: str) -> None:
    said = f"K{_FREE.index(place)}77-{place}"
    for question in _QUESTIONS:
        assert names(await archive.ask.search(question.format(said)))[0] == place, question


async def test_identifiers_of_any_digits_are_found(archive: SearchableArchive) -> None:
    for number, said in enumerate(_DRAWN):
        question = _QUESTIONS[1 + number % 3].format(said)
        assert f"drawn-{number}" in names(await archive.ask.search(question))[:2], question


async def test_a_long_question_with_it_finds_it(archive: SearchableArchive) -> None:
    noise = " ".join(f"at step{n} of {n % 7}," for n in range(1_000))
    question = f"{noise} pod 6f1c2b7e-91d3-4a53-9c7e-2a8f4d3b5c60 was lost"[-16_384:]
    assert "uid" in names(await archive.ask.search(question))[:2]


async def test_it_is_first_without_vectors_too(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise EmbedderUnavailableError("the model is away")

    monkeypatch.setattr(archive.provider, "embed", away)
    for kind in ("ipv4", "sha512", "uid", "class", "quoted"):
        result = await archive.ask.search(_QUESTIONS[1].format(_IDENTIFIERS[kind]))
        assert (names(result)[0], result.mode) == (kind, SearchMode.TEXT)
        assert result.degraded == "the model is away"


@pytest.mark.parametrize("mode", [SearchMode.TEXT, SearchMode.HYBRID])
async def test_records_with_excluded_words_stay_out(archive: SearchableArchive, mode: SearchMode) -> None:
    assert "ipv4" not in names(await archive.ask.search("10.4.7.19 -stuck", mode=mode))
    assert "ipv4" in names(await archive.ask.search("10.4.7.19 -paused", mode=mode))
    assert "ipv4" not in names(await archive.ask.search("10.4.7.19", Filter(kind="ActionTrace"), mode=mode))


async def test_a_negative_number_is_no_word_to_leave_out(archive: SearchableArchive) -> None:
    assert "negative" in names(await archive.ask.search("-104", mode=SearchMode.TEXT))
    assert "negative" in names(await archive.ask.search("returned (-104).", mode=SearchMode.TEXT))


@pytest.mark.parametrize(
    "question",
    ["...", "?!", "--- :: ---", '"', '""', '"the of" it', "“", "the of what", '"the', "'", "-", "é" * 3_000],
)
@pytest.mark.parametrize("mode", SearchMode)
async def test_a_question_that_says_nothing_is_refused_or_answered(
    archive: SearchableArchive, question: str, mode: SearchMode
) -> None:
    try:
        result = await archive.ask.search(question, mode=mode)
    except InvalidQueryError:
        return
    assert all(hit.score < 1 for hit in result.hits)  # nothing is singled out


async def test_an_unbalanced_quotation_mark_changes_nothing(archive: SearchableArchive) -> None:
    for question in ('"10.4.7.19', '10.4.7.19"', 'why "did 10.4.7.19 fail'):
        assert names(await archive.ask.search(question))[0] == "ipv4"


def _message(text: str, **metadata: Any) -> dict[str, Any]:
    return _record({"message": text}, **metadata)


@pytest_asyncio.fixture
async def own(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    """An empty archive that the test fills."""
    async with searchable(cloned, provider=WordLlamaProvider()) as made:
        yield made


async def test_a_text_that_repeats_its_words_is_found_by_them(own: SearchableArchive) -> None:
    """PostgreSQL keeps at most 255 positions of a word."""
    lines = [f"at com.example.shop.Handler{n}.handle(Handler{n}.java:{n})" for n in range(280)]
    assert len("\n".join(lines)) < 16_384
    await own.put(
        _message("Cart failed\n" + "\n".join(lines), name="trace"),
        _message("Cart failed\n" + "\n".join([*lines[:270], "handle, then Handler277"]), name="near"),
        *(_message(f"Cart failed in the example shop, handle {n} of com", name=f"n{n}") for n in range(40)),
    )
    for line in (lines[271], lines[277], "com.example.shop.Handler277.handle"):
        found = names(await own.ask.search(f"what is {line}?"))
        assert found[0] == "trace", line
    result = await own.ask.search("why did com.example.shop.Handler277.handle break?")
    assert [hit.record.name for hit in result.hits if hit.score >= 1] == ["trace"]


def _repeating(name: str, *, first: str = "", details: int) -> dict[str, Any]:
    """Return a record whose words have lost places, so that its text would have to be read for a clue."""
    said = (first + "oom killed checkout " * 900)[:16_384]
    log = "checkout killed " * details
    return _record({"message": said, "details": {"log": log}}, name=name)


async def test_clues_that_take_too_long_leave_the_ranking(
    own: SearchableArchive,
) -> None:
    """Every writer of records may write long ones."""
    await own.put(*(_repeating(f"long{n}", first=f"n{n} ", details=60_000) for n in range(40)))
    await own.put(
        *(_message(f"Moved batch {n} to another node", name=f"n{n}") for n in range(40)),
        _message("The checkout killed oom handling", name="clue"),
    )
    scores = {}
    for seconds in (0.001, 60.0):
        limited = own.limited(clues=ClueLimits(seconds=seconds))
        result = await limited.ask.search("checkout killed oom", mode=SearchMode.TEXT)
        scores[seconds] = [hit.score for hit in result.hits]
        assert len(result.hits) == 10
        assert scores[seconds] == sorted(scores[seconds], reverse=True)
    assert names(result)[0] == "clue"
    assert scores[60.0][0] >= 1
    assert all(0 < score < 1 for score in scores[0.001]), "nothing is singled out"


async def test_the_limit_of_clues_is_for_nothing_else(
    own: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the phrases of a question, there would be no answer at all."""
    await own.put(_message("The checkout killed oom handling", name="clue"))
    slow = fulltext._PHRASES.replace("WHERE", "WHERE (SELECT pg_sleep(0.2)::text) IS NOT NULL AND")
    monkeypatch.setattr(fulltext, "_PHRASES", slow)
    limited = own.limited(clues=ClueLimits(seconds=0.1))
    result = await limited.ask.search('"checkout killed"', mode=SearchMode.TEXT)
    assert names(result) == ["clue"]


async def test_the_limit_of_clues_ends_with_their_transaction(own: SearchableArchive) -> None:
    await own.put(*(_repeating(f"long{n}", details=60_000) for n in range(10)))
    async with own.store.database.connection() as connection:
        before = await connection.fetchval("SELECT current_setting('statement_timeout')")
    clue = Clue("killed oom checkout")
    async with reading(own.store.database) as connection:  # the driver looks up the types of the statement
        assert await clues.find(connection, Criteria(), [clue], [None], PATIENT) == ClueResult(
            unmatched=(clue,)
        )
    async with reading(own.store.database, seconds=0.001) as connection:
        assert await clues.find(connection, Criteria(), [clue], [None], PATIENT) == ClueResult()
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await connection.fetchval("SELECT 1")
        server = connection.get_server_pid()
    async with own.store.database.connection() as connection:
        assert connection.get_server_pid() == server
        assert await connection.fetchval("SELECT current_setting('statement_timeout')") == before


async def test_few_texts_are_read(own: SearchableArchive) -> None:
    """A text that is not read counts as one without the clue."""
    tail = " ".join(["oom killed checkout"] * 300) + " checkout killed oom"
    await own.put(*(_message(tail, name=f"n{n}") for n in range(6)))
    async with reading(own.store.database) as connection:
        found = await clues.find(
            connection, Criteria(), [Clue("checkout killed oom")], [None], replace(PATIENT, texts=3)
        )
    assert len(found.records) == 3


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_a_small_record_may_have_lost_positions(
    own: SearchableArchive,
    is_compressed: bool,  # noqa: FBT001
) -> None:
    """PostgreSQL compresses the words of a record only where its row would be large."""
    others = " ".join(f"longworkername{n}" for n in range(80 if is_compressed else 0))
    await own.put(_message(f"{'ok ' * 260} {others} queue ok", name="lost"))
    async with reading(own.store.database) as connection:
        (row,) = await connection.fetch(
            "SELECT pg_column_compression(search) AS method, octet_length(content) AS size "
            "FROM datastorage.audit_records"
        )
        assert (row["method"] is not None) == is_compressed
        assert row["size"] < 8_000
        found = await clues.find(connection, Criteria(), [Clue("queue ok")], [None], PATIENT)
    assert len(found.records) == 1


async def test_what_is_quoted_is_found_where_positions_are_lost(own: SearchableArchive) -> None:
    await own.put(
        _message(f"{'ok ' * 260} queue ok", name="lost"),
        _message(f"{'ok ' * 260} queue fails", name="other"),
        _message("queue of ok", name="short"),
    )
    for question in ('"queue ok"', '"queue ok" "ok ok"'):
        assert names(await own.ask.search(question, mode=SearchMode.TEXT)) == ["lost"]
    assert names(await own.ask.search('why "queue ok"'))[0] == "lost"
    assert not names(await own.ask.search('"queue ok" "ok fails"', mode=SearchMode.TEXT))
    assert not names(await own.ask.search('"queue ok" -queue', mode=SearchMode.TEXT))


async def test_an_identifier_far_down_in_a_long_text_is_not_absent(own: SearchableArchive) -> None:
    lines = (f"at com.example.shop.Handler{n}.handle(Handler{n}.java:{n})" for n in range(280))
    await own.put(_message("Cart failed " + " ".join(lines)))
    found = await absent_identifiers(own.ask, "why did com.example.shop.Handler277.handle break?", Filter())
    assert found == []


async def test_words_after_a_long_text_are_found_in_their_order(own: SearchableArchive) -> None:
    """PostgreSQL counts no further than 16,383: all words after that have the same position."""
    before = "\u78c1\u76d8" * 8_192
    ends = {"in order": "drained the noisy replica", "other order": "replica drained the noisy"}
    await own.put(
        *(_record({"message": before, "errorMessage": end}, name=name) for name, end in ends.items())
    )
    async with reading(own.store.database) as connection:
        found = await clues.find(connection, Criteria(), [Clue("drained the noisy replica")], [None], PATIENT)
        [place] = [record.place for record in found.records]
        assert await connection.fetchval(_NAME, place.key.uid) == "in order"


async def test_a_beginning_is_a_clue_though_the_question_has_no_other_word(own: SearchableArchive) -> None:
    """The whole question and the beginning are equal to PostgreSQL, but not the records that they find."""
    await own.put(_message("Pulled abc123def", name="longer"), *(_message(f"Pulled {n}") for n in range(5)))
    result = await own.ask.search("what was abc123 about", mode=SearchMode.TEXT)
    assert names(result) == ["longer"]
    assert result.hits[0].score >= 1


async def test_a_long_quotation_is_found(own: SearchableArchive) -> None:
    said = " ".join(f"step{n:06}" for n in range(80))
    assert said[499].isalnum()  # the limit is within a word
    assert said[500].isalnum()
    await own.put(_message(said, name="long"), _message(said.replace("step000003", "step"), name="other"))
    assert names(await own.ask.search(f'"{said}"', mode=SearchMode.TEXT)) == ["long"]


async def test_an_event_that_comes_again_is_one(own: SearchableArchive) -> None:
    await own.put(
        *(
            _message("Restarted the api after ORA-00060", name=f"again{n}",
                     creationTimestamp=f"2026-03-05T10:00:{n:02}Z") for n in range(30)
        ),
        *(_message(f"Restarted the api after a database error of kind {n}", name=f"n{n}") for n in range(30)),
    )  # fmt: skip
    result = await own.ask.search("why was the api restarted after a database error ORA-00060")
    assert names(result)[:3] == ["again29", "again28", "again27"]
    assert all(hit.score >= 1 for hit in result.hits[:3])
    assert result.hits[0].more == 27


async def test_a_clue_that_many_records_have_singles_none_out(own: SearchableArchive) -> None:
    await own.put(
        *(_message(f"{verb} the api after ORA-00060", name=verb)
          for verb in ("restarted", "scaled", "moved", "drained", "patched", "resized", "paused", "failed",
                       "stopped", "copied")),
        _message("restored the database", name="restored"),
    )  # fmt: skip
    result = await own.ask.search("ORA-00060")
    assert len(result.hits) == 10
    assert all(hit.score < 1 for hit in result.hits)


async def test_records_without_a_text_are_an_event_each(own: SearchableArchive) -> None:
    await own.put(
        *(audit_record({"type": "Remediation", "details": {"code": "ORA-00060"}}) for _ in range(9))
    )
    result = await own.ask.search("ORA-00060")
    assert len(result.hits) == 9
    assert all(hit.score < 1 for hit in result.hits)


async def test_only_the_newest_generation_of_a_trace_counts(own: SearchableArchive) -> None:
    first = _trace({"model": {"reasoning": "upstream 10.4.7.19 is away"}}, name="trace")
    later = {
        **first, "metadata": {**first["metadata"], "generation": 2},
        "spec": {**first["spec"], "model": {"reasoning": "the database is away"}},
    }  # fmt: skip
    await own.put(first, later, _message("upstream 10.4.7.20 is away", name="near"))
    result = await own.ask.search("10.4.7.19")
    assert all(hit.score < 1 for hit in result.hits)


async def test_the_rarer_clue_comes_first(own: SearchableArchive) -> None:
    await own.put(
        *(_message(f"moved batch {n} to worker-7", name=f"worker{n}") for n in range(4)),
        *(_message(f"restarted pod {n} at midnight", name=f"n{n}") for n in range(40)),
        _message("token E4711", name="code"),
    )
    result = await own.ask.search("why were batches moved to worker-7, and what is E4711?")
    assert names(result)[0] == "code"
    assert sorted(names(result)[1:5]) == [f"worker{n}" for n in range(4)]
