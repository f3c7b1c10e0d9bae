"""A record is found by the words of its whole spec, in any language and form, on a real PostgreSQL."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from datastorage.query.filters import SearchMode
from datastorage.records.record import Table
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.postgres import TestDatabase
from tests.support.archive import SearchableArchive, searchable

_AUDIT: Mapping[str, Any] = {
    "environment": "staging7",
    "cluster": "edge-munich-02",
    "severity": "urgent",
    "correlationID": "rr-77aa",
    "alertFingerprint": "cf7dcb6c237f0b8b",
    "actor": {"kind": "User", "name": "n.okafor"},
    "startTime": "2031-07-08T09:10:11Z",
    "details": {
        "image": "registry.example.com/shop/api:v2.41.3-rc1",
        "digest": "sha256:7be2d91a4c6f0b8b237f7be2d91a4c6f0b8b237f7be2d91a4c6f0b8b237f0011",
        "volume": "pvc-3e9c17d2-40a6-4b0e-9a6f-2045e06118bd",
        "错误码": "SIGN_VERIFY_FAILED",
        "exitCode": 137,
        "steps": [{"said": "flashFirmware EDA7702Q"}, ["nested deeper"]],
        "hint": "磁盘空间不足\uff0c请清理日志",
        "grund": "Zertifikat ungültig, Aufträge der Behörden abgewiesen",
    },
}
_TRACE: Mapping[str, Any] = {
    "parameters": {"strategy": {"maxSurge": "31%"}},
    "alert": {"name": "A", "labels": {"team": "netops"}, "annotations": {"runbook": "wiki/spilled"}},
    "model": {"name": "granite9", "alternatives": [{"actionType": "drain_node", "reasoning": "too slow"}]},
    "execution": {"status": "Completed", "operations": [{"verb": "patch", "message": "budget widened"}]},
    "effectiveness": {
        "method": "alert-resolved",
        "followUps": [{"actionType": "review_cost", "reason": "bill"}],
    },
    "stateBefore": {"pool": "tickets-fixed"},
    "stateAfter": {"replicas": 2417},
}  # fmt: skip
_OF_AUDIT = (
    "staging7", "edge-munich-02", "urgent", "rr-77aa", "cf7dcb6c237f0b8b", "n.okafor", "v2.41.3-rc1",
    "registry.example.com/shop/api", "SIGN_VERIFY_FAILED", "137", "EDA7702Q", "flash firmware",
    "nested deeper", "错误码", "exitCode", "exit code", "grund", "Aufträge", "ungültig",
)  # fmt: skip
_OF_TRACE = (
    "maxSurge", "31", "netops", "team", "spilled", "granite9", "drain_node", "too slow", "budget widened",
    "alert-resolved", "review_cost", "bill", "tickets-fixed", "2417", "pool",
)  # fmt: skip


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        await made.put(
            audit_record({**AUDIT_SPEC, **_AUDIT}, name="audit"),
            action_trace({**TRACE_SPEC, **_TRACE}, name="trace"),
            *(audit_record({**AUDIT_SPEC, "message": f"nothing {n}"}, name=f"other{n}") for n in range(20)),
        )
        yield made


async def _found(archive: SearchableArchive, question: str) -> list[str]:
    result = await archive.ask.search(question, mode=SearchMode.TEXT)
    return [hit.record.name for hit in result.hits]


@pytest.mark.oldest_postgres
async def test_it_is_found_by_any_field(archive: SearchableArchive) -> None:
    for name, questions in (("audit", _OF_AUDIT), ("trace", _OF_TRACE)):
        for question in questions:
            assert (await _found(archive, question))[0] == name, question
            assert await _found(archive, f'"{question}"') == [name], question


async def test_names_that_all_records_have_and_times_find_nothing(archive: SearchableArchive) -> None:
    assert await _found(archive, "correlationID") == []
    assert await _found(archive, "effectiveness followUps") == []
    assert await _found(archive, "2031") == []


@pytest.mark.parametrize(
    "question",
    ["sha256:7be2d91a", "7be2d91a", "7BE2D91A4c6f", '"sha256:7be2d91a4c"', "what uses sha256:7be2d9 now?"],
)
async def test_the_beginning_of_a_digest_finds_it(archive: SearchableArchive, question: str) -> None:
    assert (await _found(archive, question))[0] == "audit"
    result = await archive.ask.search(question)
    assert (result.hits[0].record.name, result.hits[0].score >= 1) == ("audit", True)


async def test_a_beginning_has_six_digits_and_letters_at_least(archive: SearchableArchive) -> None:
    for question in ("7be2d", "77aaf", "be2d91a4c", "firmw", "1371"):
        assert await _found(archive, question) == [], question


async def test_the_beginning_of_a_uuid_finds_it_wherever_it_ends(archive: SearchableArchive) -> None:
    uuid = "3e9c17d2-40a6-4b0e-9a6f-2045e06118bd"
    for length in range(6, len(uuid) + 1):
        beginning = uuid[:length].rstrip("-")
        for question in (beginning, f"pvc-{beginning}", f"which node had ({beginning})?"):
            result = await archive.ask.search(question)
            assert (result.hits[0].record.name, result.hits[0].score >= 1) == ("audit", True), question
        assert await _found(archive, f'"{beginning}"') == ["audit"]
        other = beginning[:-1] + ("1" if beginning.endswith("0") else "0")
        assert await _found(archive, f'"{other}"') == [], other


async def test_a_short_word_is_no_beginning_but_after_the_first_group_of_a_uuid(
    archive: SearchableArchive,
) -> None:
    for question in ("api 2", "volume 3e", "40a6-4b", "3e9c17d-4", "3e9c17d2 4b0"):
        assert await _found(archive, f'"{question}"') == [], question


async def test_words_to_leave_out_are_looked_for_everywhere(archive: SearchableArchive) -> None:
    for excluded in ("okafor", '"nested deeper"', "7be2d91a", "空间", "磁盘空间"):
        assert await _found(archive, f"staging7 -{excluded}") == [], excluded
    for other in ("brandt", '"deeper nested"', "7be2d91b", "盘空间间", "空盘"):
        assert await _found(archive, f"staging7 -{other}") == ["audit"], other


@pytest.mark.oldest_postgres
@pytest.mark.parametrize(
    "question", ["空间不足", "日志", '"磁盘空间"', "清理日志的问题", "磁盘空间不足\uff0c请清理日志", "错误"]
)
async def test_a_part_of_a_text_without_spaces_finds_it(archive: SearchableArchive, question: str) -> None:
    assert await _found(archive, question) == ["audit"]


async def test_a_phrase_without_spaces_has_its_order(archive: SearchableArchive) -> None:
    assert await _found(archive, '"空间磁盘"') == []
    assert await _found(archive, '"间不足"') == ["audit"]


async def test_a_phrase_beyond_the_positions_is_found(archive: SearchableArchive) -> None:
    """PostgreSQL keeps 255 positions of a word at most; then the content itself is read."""
    repeated = "磁盘很慢\uff0c空间很大。" * 260
    far = {**AUDIT_SPEC, "details": {"日志": f"{repeated}磁盘空间告急"}}
    near = {**AUDIT_SPEC, "details": {"日志": f"{repeated}空间磁盘告急\uff0c盘空"}}
    await archive.put(audit_record(far, name="far"), audit_record(near, name="near"))
    result = await archive.ask.search("磁盘空间告急", mode=SearchMode.TEXT)
    assert [hit.record.name for hit in result.hits if hit.score >= 1] == ["far"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("\uff25\uff32\uff32\uff3f\uff17\uff17", "ERR_77"),
        ("ERR_77", "\uff25\uff32\uff32\uff3f\uff17\uff17"),
        ("gro\u0308\u00dfe", "Gr\u00f6\u00dfe"),
        ("GR\u00d6\u00dfE", "gr\u00f6\u00dfe"),
        ("\u0130stanbul", "\u0130stanbul"),
        ("istanbul", "\u0130stanbul"),
        ("istanbul", "\u0130stanbul".lower()),
        ("\u0130stanbul".lower(), "istanbul"),
        ("I\u0307STANBUL", "istanbul"),
        ("\uff7b\uff70\uff8a\uff9e\uff70", "\u30b5\u30fc\u30d0\u30fc\u304c\u843d\u3061\u305f"),
    ],
)
async def test_forms_of_a_character_are_one(archive: SearchableArchive, typed: str, said: str) -> None:
    await archive.put(audit_record({**AUDIT_SPEC, "details": {"said": said}}, name="said"))
    for question in (typed, f'"{typed}"', f"staging {typed}"):
        assert "said" in await _found(archive, question), question


async def test_main_texts_keep_their_positions(archive: SearchableArchive, owner: Any) -> None:
    details = [f"w{n} common" for n in range(20_000)]
    spec = {**AUDIT_SPEC, "message": "the first of them is common", "details": details}
    await archive.put(audit_record(spec, name="large"))
    [[positions]] = await owner.fetch(
        "SELECT positions FROM datastorage.audit_records, unnest(search) AS w (lexeme, positions, weights) "
        "WHERE name = 'large' AND lexeme = 'first'"
    )
    assert positions == [4]


def _letters(first: int, count: int, seed: int) -> str:
    letters = [chr(code) for code in range(first, first + count)]
    random.Random(seed).shuffle(letters)
    return "".join(letters)


@pytest.mark.oldest_postgres
@pytest.mark.parametrize(
    "text",
    [
        "".join(_letters(0x4E00, 20_000, seed) for seed in range(4)),
        "".join(_letters(0x20000, 40_000, seed) for seed in range(2)),
        " ".join(f"{chr(0x10400 + n % 40)}{n:x}aB" for n in range(30_000)),
        "".join(f"{n:x}Zz" for n in range(30_000)),
        "\ufdfa" * 65_536,
        "/-_.:@" * 30_000,
        "e" * 200_000,
    ],
    ids=["pairs", "rare pairs", "camel case", "one word", "forms", "punctuation", "letters"],
)  # fmt: skip
async def test_no_text_is_too_much_for_the_index(archive: SearchableArchive, owner: Any, text: str) -> None:
    """A tsvector has 1 MiB at most. What does not fit would be rejected, and so would its record."""
    spec = {**AUDIT_SPEC, "message": text, "errorMessage": text[::-1], "details": {"t": text}}
    record = record_of(audit_record(spec))
    await archive.put(audit_record(spec, name="large"))
    assert record.table is Table.AUDIT_RECORDS
    assert json.loads(record.content)["spec"] == spec
    words = await owner.fetchval("SELECT length(search) FROM datastorage.audit_records WHERE name = 'large'")
    assert words >= 2
