"""A search by words finds the synonyms of a question's words, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage.query.questionwords import wording
from datastorage.storage.criteria import Criteria
from datastorage.storage.fulltext import FullText
from datastorage.storage.matches import Match
from datastorage.storage.ranking import RankLimits
from harness.objects import audit_record
from harness.postgres import TestDatabase, TestDatabases
from tests.support.archive import SearchableArchive, searchable
from tests.support.commandline import command_of, use_database

_GROUPS = (
    ("OOMKilled", "OOM", "out of memory", "memory exhausted"),
    ("certificate", "cert", "x509"),
    ("persistent volume", "PV"),
    ("disk full", "ENOSPC", "out of disk space"),
    ("rollback", "revert"),
)
_MANY = RankLimits(few_records=10)
"""Those of a large archive, where common words select no records."""


@dataclass
class _Records:
    """Records with nothing but a message, which the tests know by it."""

    archive: SearchableArchive
    messages: dict[str, str] = field(default_factory=dict)

    async def put(self, *messages: str, **metadata: Any) -> None:
        spec = {"type": "Remediation", "phase": "Completed", "correlationID": "rr-1", "action": "look"}
        bodies = [audit_record({**spec, "message": message}, **metadata) for message in messages]
        await self.archive.put(*bodies, with_vectors=False)
        self.messages |= {body["metadata"]["uid"]: body["spec"]["message"] for body in bodies}

    async def scores(
        self,
        question: str,
        groups: Sequence[Sequence[str]] = _GROUPS,
        limits: RankLimits = RankLimits(),
        limit: int = 1_000,
    ) -> dict[str, float]:
        """Return the scores of the messages that are found, the best first, without those of clues."""
        found = await self.matches(question, groups, limits, limit)
        return {message: match.share for message, match in found.items()}

    async def matches(
        self,
        question: str,
        groups: Sequence[Sequence[str]] = _GROUPS,
        limits: RankLimits = RankLimits(),
        limit: int = 1_000,
    ) -> dict[str, Match]:
        """Return the matches of the messages that are found, the best first, without those of clues."""
        full_text = FullText(self.archive.store.database, synonyms=groups, limits=limits)
        asked = replace(wording(question), clues=())
        found = await full_text.find(Criteria(), asked, limit=limit, per_text=3)
        return {self.messages[match.place.key.uid]: match for match in found.matches} if found else {}


@pytest_asyncio.fixture
async def records(cloned: TestDatabase) -> AsyncIterator[_Records]:
    async with searchable(cloned) as archive:
        yield _Records(archive)


@pytest.mark.oldest_postgres
@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("pods that ran out of memory", "the container was OOMKilled"),
        ("oom", "its memory is exhausted: memory exhausted"),
        ("OOMKilled", "memory exhausted by a cache"),
        ("certificates", "x509: unknown authority"),
        ("x509", "renewed the cert"),
        ("the PV", "two persistent volumes are lost"),
        ("persistent volume", "pv-7 is gone"),
        ("out of disk space", "write failed: ENOSPC"),
        ("reverted", "rollbacks of today"),
    ],
)
async def test_a_synonym_finds_the_record(records: _Records, question: str, message: str) -> None:
    await records.put(message, "nothing to see")
    assert list(await records.scores(question)) == [message]
    assert await records.scores(question, ()) == {}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ('"cert"', "x509: unknown authority"),
        ('"out of memory"', "the container was OOMKilled"),
        ("cert-manager", "x509: unknown authority"),
        ("registry.example.com/cert", "x509: unknown authority"),
        ("disk full", "the disk space is that of yesterday, and enough"),  # not "out of disk space"
        ("persistent volume", "volume and persistent"),  # adjacent, in this order
    ],
)
async def test_what_has_no_synonyms(records: _Records, question: str, message: str) -> None:
    await records.put(message, "nothing to see")
    assert await records.scores(question) == await records.scores(question, ())


async def test_a_synonym_finds_a_record_where_most_have_the_word(records: _Records) -> None:
    """As long as there is room for all of them."""
    messages = {"x509: unknown authority", *(f"renewed certificate {n}" for n in range(5))}
    await records.put(*messages)
    assert set(await records.scores("certificate")) == messages


async def test_excluded_words_leave_their_synonyms(records: _Records) -> None:
    await records.put("rotated the x509", "rotated the cert", "rotated the key")
    assert set(await records.scores("rotated -cert")) == {"rotated the x509", "rotated the key"}
    assert set(await records.scores("certificate -cert")) == {"rotated the x509"}


async def test_a_quoted_phrase_stays_a_condition(records: _Records) -> None:
    await records.put("checkout renewed the cert", "payments renewed the cert")
    assert list(await records.scores('certificate "checkout"')) == ["checkout renewed the cert"]


@pytest.mark.parametrize("limits", [RankLimits(), _MANY])
async def test_the_information_of_a_record_depends_on_its_words_alone(
    records: _Records, limits: RankLimits
) -> None:
    """A record that has a word more often, or is shorter, only has the greater share."""
    fillers = " ".join(f"filler{n}" for n in range(40))
    await records.put(
        "checkout checkout certificate", f"checkout certificate {fillers}", "checkout cert x509",
        "certificate alone", *(f"checkout {n}" for n in range(8)), *(f"nothing {n}" for n in range(20)),
    )  # fmt: skip
    found = await records.matches("certificate of checkout", limits=limits)
    often, long = found["checkout checkout certificate"], found[f"checkout certificate {fillers}"]
    assert often.information == long.information == 1
    assert often.share > long.share
    rare, synonym = found["certificate alone"].information, found["checkout cert x509"].information
    assert 0.5 < rare < 1
    assert synonym == pytest.approx(1 - 0.1 * rare)


async def test_the_word_itself_comes_first_and_several_synonyms_count_once(records: _Records) -> None:
    await records.put(
        "checkout certificate red blue", "checkout cert red blue", "checkout cert x509 blue",
        "checkout alone red blue",
        *(f"filler {n}" for n in range(40)),
    )  # fmt: skip
    found = await records.scores("certificate of checkout")
    assert next(iter(found)) == "checkout certificate red blue"
    assert list(found)[-1] == "checkout alone red blue"
    assert (
        found["checkout cert red blue"]
        == found["checkout cert x509 blue"]
        < found["checkout certificate red blue"]
    )


async def test_a_synonym_that_most_records_have_counts_little(records: _Records) -> None:
    await records.put("certificate of alpha", *(f"cert of beta{n}" for n in range(40)))
    found = await records.scores("certificate")
    assert found["certificate of alpha"] > 10 * found["cert of beta7"] > 0


async def test_the_words_that_no_record_has_count_as_before(records: _Records) -> None:
    """A record with nothing but words of the question has the same score with synonyms as without."""
    await records.put("renewed the certificate", *(f"filler {n}" for n in range(40)))
    asked = "certificate xyzzy plugh"
    assert await records.scores(asked) == await records.scores(asked, ())


async def test_a_phrase_counts_like_a_word(records: _Records) -> None:
    """PostgreSQL's rank of a phrase is another number than that of a word."""
    await records.put("the pv is lost now", "persistent volume lost now", *(f"filler {n}" for n in range(40)))
    by_word, by_phrase = await records.scores("persistent volume"), await records.scores("PV")
    assert by_word["persistent volume lost now"] > by_word["the pv is lost now"]
    assert by_phrase["the pv is lost now"] > by_phrase["persistent volume lost now"]


async def test_a_phrase_whose_words_stand_apart_counts_nothing(records: _Records) -> None:
    apart, plain = "cert blue red drum blue red drum", "cert red red red red red red"
    await records.put(apart, plain, *(f"filler {n}" for n in range(40)))
    found = await records.scores("certificate", (("certificate", "cert", "blue drum"),))
    assert found[apart] == found[plain]


async def test_in_a_large_archive_a_rare_synonym_finds_records_of_its_own(records: _Records) -> None:
    await records.put(
        "old: OOMKilled", *(f"memory of pod {n}" for n in range(60)), *(f"filler {n}" for n in range(60))
    )
    before = await records.scores("pod out of memory", (), _MANY)
    after = await records.scores("pod out of memory", _GROUPS, _MANY)
    assert set(after) == {*before, "old: OOMKilled"}


async def test_in_a_large_archive_newer_records_with_a_synonym_displace_none_with_the_word(
    records: _Records,
) -> None:
    await records.put("old: rollback", creationTimestamp="2026-01-01T00:00:00Z")
    await records.put(*(f"revert of change {n}" for n in range(60)))
    limits = RankLimits(few_records=10, newest=5)
    assert "old: rollback" in await records.scores("rollback", limits=limits, limit=5)


_VOCABULARY = ("oom", "memory", "exhausted", "cert", "x509", "certificate", "rollback", "revert", "pod", "of")


@pytest.fixture(scope="module")
def many(databases: TestDatabases) -> tuple[TestDatabase, dict[str, str]]:
    """Records with few different words; the tests only read them."""

    async def fill() -> tuple[TestDatabase, dict[str, str]]:
        database = await databases.clone()
        async with searchable(database) as archive:
            records = _Records(archive)
            # Each word in the place of each other one, so that there are pairs with one word exchanged.
            await records.put(*(f"{a} {b} {c}" for a, b, c in product(_VOCABULARY[:8], repeat=3)))
        return database, records.messages

    return asyncio.run(fill())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.lists(st.sampled_from((*_VOCABULARY, "OOMKilled", "out")), min_size=1, max_size=5).map(
        " ".join
    ),
    groups=st.lists(st.sampled_from(_GROUPS), unique=True),
    limits=st.sampled_from((RankLimits(), _MANY)),
)
async def test_a_synonym_lowers_no_score_and_is_no_better_than_the_word(
    many: tuple[TestDatabase, dict[str, str]],
    question: str,
    groups: list[tuple[str, ...]],
    limits: RankLimits,
) -> None:
    database, messages = many
    async with searchable(database) as archive:
        records = _Records(archive, messages)
        before, after = (
            await records.scores(question, (), limits),
            await records.scores(question, groups, limits),
        )
    assert all(after[message] >= score for message, score in before.items())
    words = set(_GROUPS[1]).intersection(question.split())
    if len(words) == 1:
        [word] = words
        for message, score in after.items():
            changed = " ".join(word if each in _GROUPS[1] else each for each in message.split())
            # In a large archive, not all records with a common word are found.
            assert after.get(changed, score) >= score, message


def test_a_file_leads_to_the_answer_of_a_command(
    many: tuple[TestDatabase, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_database(monkeypatch, many[0].service_url, tmp_path / "absent")
    run = command_of(monkeypatch, capsys, "search", "green button", "--mode", "text")
    file = tmp_path / "thesaurus.toml"
    file.write_text('[groups]\nbutton = ["green button", "x509 cert"]\n')
    assert run()[:2] == (0, "")
    monkeypatch.setenv("DATASTORAGE_THESAURUS_FILE", str(file))
    code, printed, _ = run()
    assert (code, "x509 cert" in printed) == (0, True)
    file.write_text('[groups]\nbutton = ["green button"]\n')
    code, _, noted = run()
    assert code == 2
    assert noted.startswith(
        f"datastorage: DATASTORAGE_THESAURUS_FILE: {file}, line 2: group 'button': it has "
    )
    monkeypatch.setenv("DATASTORAGE_THESAURUS_ENABLED", "false")
    assert run()[:2] == (0, "")
