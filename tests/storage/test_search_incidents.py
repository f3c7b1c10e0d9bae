"""Searches know which records are of one incident: these lift each other, and are shown together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count, groupby
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage.query.filters import Filter, SearchMode
from datastorage.query.searchresult import FoundBy, SearchHit, SearchResult
from datastorage.storage.criteria import Scope
from harness.objects import TRACE_SPEC, action_trace, audit_record, utc
from harness.postgres import TestDatabase, TestDatabases
from tests.support.archive import SearchableArchive, searchable

MODES = list(SearchMode)
_SPEC = {"type": "Remediation", "action": "act", "phase": "Completed"}
_SECONDS = count()


def said(incident: str, message: str, name: str, **metadata: Any) -> dict[str, Any]:
    """Return a record that is newer than those before."""
    created = (
        f"2026-03-05T{10 + (number := next(_SECONDS)) // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    )
    spec = {**_SPEC, "correlationID": incident, "message": message}
    return audit_record(spec, name=name, **{"creationTimestamp": created, **metadata})


def names(result: SearchResult) -> list[str]:
    return [hit.record.name for hit in result.hits]


def incident_of(hit: SearchHit) -> str:
    return str(hit.record.spec["correlationID"])


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.oldest_postgres
async def test_hits_of_an_incident_are_together_and_the_rest_is_counted(
    archive: SearchableArchive, mode: SearchMode
) -> None:
    await archive.put(
        *(said("rr-1", f"memory limit reached x{n}", name=f"a{n}") for n in range(5)),
        said("rr-1", "a song", name="song"),
        said("rr-2", "memory limit raised by some more of it for good", name="b"),
        action_trace({**TRACE_SPEC, "correlationID": "rr-1"}, name="t", uid=(uid := _uid(1))),
        action_trace({**TRACE_SPEC, "correlationID": "rr-1"}, name="t", uid=uid, generation=2),
    )
    result = await archive.ask.search("memory limit reached", mode=mode, limit=4)
    found = [(hit.record.name, hit.correlation_id, hit.more_of_incident) for hit in result.hits]
    # Besides the three, there are two like them, the song, and the newest generation of the trace.
    assert found == [*((f"a{n}", "rr-1", 4) for n in (4, 3, 2)), ("b", "rr-2", 0)]
    chosen = Filter(kind="AuditRecord", until=result.hits[0].record.created_at)
    result = await archive.ask.search("memory limit reached", chosen, mode=mode, limit=3)
    assert [(hit.record.name, hit.more_of_incident) for hit in result.hits] == [
        ("a3", 1), ("a2", 1), ("a1", 1),
    ]  # fmt: skip


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@pytest.mark.parametrize("mode", MODES)
async def test_a_flat_answer_has_as_many_of_an_incident_as_are_good(
    archive: SearchableArchive, mode: SearchMode
) -> None:
    await archive.put(
        *(said("rr-1", f"memory limit reached x{n}", name=f"a{n}") for n in range(5)),
        said("rr-2", "memory limit raised", name="b"),
    )
    flat = await archive.ask.search("memory limit reached", mode=mode, limit=5, flat=True)
    assert names(flat) == ["a4", "a3", "a2", "a1", "a0"]
    assert {(hit.correlation_id, hit.more_of_incident) for hit in flat.hits} == {("rr-1", 0)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_about_one_incident_gets_as_many_of_it(
    archive: SearchableArchive, mode: SearchMode
) -> None:
    await archive.put(*(said("rr-1", f"memory limit reached x{n}", name=f"a{n}") for n in range(5)))
    found = await archive.ask.search("memory limit", Filter(correlation_id="rr-1"), mode=mode)
    assert len(found.hits) == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("incident", "order", "raised"),
    [("rr-1", ["best", "weak", "middle"], ["weak"]), ("rr-3", ["best", "middle", "weak"], [])],
    ids=["of one incident", "of another"],
)
async def test_a_record_is_lifted_by_a_better_one_of_its_incident(
    archive: SearchableArchive, mode: SearchMode, incident: str, order: list[str], raised: list[str]
) -> None:
    await archive.put(
        said("rr-1", "memory limit reached by checkout pod", name="best"),
        said(incident, "limit of connections in some pool or other", name="weak"),
        said("rr-2", "limit of the pod is some number or other", name="middle"),
    )
    result = await archive.ask.search("memory limit reached checkout pod", mode=mode, flat=True)
    assert names(result) == order
    assert [hit.record.name for hit in result.hits if FoundBy.INCIDENT in hit.found_by] == raised
    ways = {"hybrid": {FoundBy.MEANING, FoundBy.WORDS}, "vector": {FoundBy.MEANING}, "text": {FoundBy.WORDS}}
    assert all(set(hit.found_by) - {FoundBy.INCIDENT, FoundBy.CLUE} == ways[mode] for hit in result.hits)
    of_clue = [] if mode is SearchMode.VECTOR else ["best"]
    assert [hit.record.name for hit in result.hits if FoundBy.CLUE in hit.found_by] == of_clue


@pytest.mark.parametrize("mode", MODES)
async def test_records_without_a_correlation_id_are_as_they_were(
    archive: SearchableArchive, owner: Any, mode: SearchMode
) -> None:
    await archive.put(
        said("rr-1", "memory limit reached by checkout pod", name="best"),
        *(said("rr-1", f"memory limit x{n} of some pool", name=f"a{n}") for n in range(4)),
    )
    with_ids = await archive.ask.search("memory limit reached checkout pod", mode=mode)
    assert len(with_ids.hits) == 3
    await owner.execute("UPDATE datastorage.audit_records SET correlation_id = NULL")
    without = await archive.ask.search("memory limit reached checkout pod", mode=mode)
    assert names(without) == ["best", "a3", "a2", "a1", "a0"]
    assert {(hit.correlation_id, hit.more_of_incident) for hit in without.hits} == {(None, 0)}
    assert without.hits[0].score == with_ids.hits[0].score
    assert without.hits[1].score < with_ids.hits[1].score


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flat", [False, True], ids=["together", "flat"])
@pytest.mark.oldest_postgres
async def test_records_that_the_caller_may_not_read_have_no_part_in_the_answer(
    archive: SearchableArchive, mode: SearchMode, *, flat: bool
) -> None:
    """Neither do they lift others, nor are they counted: the answer is the same with and without them."""
    await archive.put(
        said("rr-1", "limit of connections in some pool or other", name="weak", namespace="shop"),
        said("rr-2", "limit of the pod is some number or other", name="middle", namespace="shop"),
        said("rr-3", "memory limit", name="good", namespace="shop"),
        said("rr-1", "memory limit", name="old", namespace="shop", creationTimestamp="2026-01-01T00:00:00Z"),
    )
    question = "memory limit reached checkout pod"
    scope = Scope("shop", since=utc("2026-03-01T00:00:00Z"))

    async def ask() -> SearchResult:
        return await archive.ask.search(question, mode=mode, flat=flat, scope=scope)

    before = await ask()
    assert {hit.record.name: hit.more_of_incident for hit in before.hits} == {
        "weak": 0, "middle": 0, "good": 0,
    }  # fmt: skip
    assert not any(FoundBy.INCIDENT in hit.found_by for hit in before.hits)
    await archive.put(
        *(said("rr-1", f"memory limit reached by checkout pod x{n}", name=f"n{n}") for n in range(5)),
        said("rr-1", "memory limit reached by checkout pod", name="too old", namespace="shop",
             creationTimestamp="2026-01-01T00:00:01Z"),
    )  # fmt: skip
    assert await ask() == before
    everything = await archive.ask.search(question, mode=mode, flat=flat)
    assert incident_of(everything.hits[0]) == "rr-1"


@pytest.mark.parametrize("mode", MODES)
async def test_a_long_incident_does_not_shorten_the_page(
    archive: SearchableArchive, mode: SearchMode
) -> None:
    """It has more records than a search looks at, at first."""
    await archive.put(
        *(said("rr-1", f"memory limit reached x{n}", name=f"a{n}") for n in range(120)),
        *(said(f"rr-b{n}", f"memory and y{n} z{n} of some other", name=f"b{n}") for n in range(9)),
    )
    result = await archive.ask.search("memory limit reached", mode=mode, limit=10)
    assert Counter(map(incident_of, result.hits)).most_common(2) == [
        ("rr-1", 3),
        (result.hits[3].correlation_id, 1),
    ]
    assert len(result.hits) == 10
    assert result.hits[0].more_of_incident == 117


async def test_a_long_incident_beside_excluded_words_does_not_shorten_the_page(
    archive: SearchableArchive,
) -> None:
    """The search has looked at all records, and keeps fewer than are left without the excluded word."""
    await archive.put(
        *(said("rr-1", f"memory limit reached x{n}", name=f"a{n}") for n in range(60)),
        said("rr-2", "memory limit reached by postgres", name="excluded"),
        *(said(f"rr-b{n}", f"memory and y{n} z{n} of some other", name=f"b{n}") for n in range(9)),
    )
    question = "memory limit reached -postgres"
    result = await archive.ask.search(question, mode=SearchMode.VECTOR, limit=10)
    assert len(result.hits) == 10


async def fill_with_an_answer_and_much_else(archive: SearchableArchive) -> None:
    """Store a record that answers, others of its incident that say other things, and many others.

    Of these others, each is nearer than the records of the incident are, and has a word of the question.
    """
    await archive.put(
        said("rr-1", "a song was sung all night", name="song"),
        said("rr-1", "somebody danced all night", name="dance"),
        said("rr-1", "memory limit reached by checkout pod", name="best"),
        *(said(f"rr-b{n}", f"memory of y{n} or z{n} in v{n} and w{n}", name=f"b{n}") for n in range(60)),
    )


_ABOUT_MEMORY = "memory limit reached checkout pod"


@pytest.mark.parametrize("flat", [False, True], ids=["together", "flat"])
@pytest.mark.oldest_postgres
async def test_the_answer_brings_others_of_its_incident_that_no_search_would_find(
    archive: SearchableArchive, *, flat: bool
) -> None:
    await fill_with_an_answer_and_much_else(archive)
    result = await archive.ask.search(_ABOUT_MEMORY, flat=flat)
    hits = {hit.record.name: hit for hit in result.hits}
    assert set(names(result)[:3]) == {"best", "song", "dance"}
    assert hits["song"].found_by == hits["dance"].found_by == (FoundBy.INCIDENT,)
    assert None not in {hits["song"].similarity, hits["dance"].similarity}
    for mode in (SearchMode.TEXT, SearchMode.VECTOR):
        alone = await archive.ask.search(_ABOUT_MEMORY, mode=mode, flat=flat)
        assert not {"song", "dance"} & set(names(alone))


async def test_no_record_comes_along_that_has_excluded_words_or_does_not_meet_the_filter(
    archive: SearchableArchive,
) -> None:
    await fill_with_an_answer_and_much_else(archive)
    result = await archive.ask.search(f"{_ABOUT_MEMORY} -song")
    assert names(result)[:2] == ["best", "dance"]
    assert "song" not in names(result)
    newest = Filter(since=result.hits[0].record.created_at)
    result = await archive.ask.search(_ABOUT_MEMORY, newest)
    assert names(result)[0] == "best"
    assert not {"song", "dance"} & set(names(result))


async def test_traces_come_along_in_the_newest_generation_that_is_of_the_incident_and_the_caller_may_read(
    archive: SearchableArchive,
) -> None:
    await fill_with_an_answer_and_much_else(archive)

    def trace(number: int, name: str, incident: str = "rr-1", **metadata: Any) -> dict[str, Any]:
        spec = {**TRACE_SPEC, "correlationID": incident, "model": {"reasoning": f"sung {metadata}"}}
        return action_trace(spec, name=name, uid=_uid(number), **metadata)

    await archive.put(
        trace(1, "kept"),
        trace(1, "kept", generation=2),
        trace(2, "moved"),
        trace(2, "moved", incident="rr-2", generation=2),
        trace(3, "foreign", namespace="shop"),
        trace(4, "too old", creationTimestamp="2026-02-01T00:00:00Z"),
    )
    scope = Scope("payments", since=utc("2026-03-01T00:00:00Z"))
    result = await archive.ask.search(_ABOUT_MEMORY, flat=True, scope=scope)
    along = [hit.record for hit in result.hits if hit.found_by == (FoundBy.INCIDENT,)]
    assert {(record.name, record.generation) for record in along} == {("song", 1), ("dance", 1), ("kept", 2)}


async def test_of_a_long_incident_its_newest_records_come_along(archive: SearchableArchive) -> None:
    await fill_with_an_answer_and_much_else(archive)
    await archive.put(*(said("rr-1", f"sung n{n}", name=f"{n}") for n in range(30)))
    result = await archive.ask.search(_ABOUT_MEMORY, limit=25, flat=True)
    along = {hit.record.name for hit in result.hits if hit.found_by == (FoundBy.INCIDENT,)}
    assert along == {str(n) for n in range(10, 30)}


@pytest.mark.parametrize(
    ("message", "with_vectors"),
    [("what was there before the", True), ("memory of checkout pod", False)],
    ids=["found by meaning", "found by words"],
)
async def test_the_incidents_lead_that_either_search_finds(
    archive: SearchableArchive, message: str, *, with_vectors: bool
) -> None:
    await fill_with_an_answer_and_much_else(archive)
    await archive.put(said("rr-2", "a long walk", name="walk"))
    await archive.put(said("rr-2", message, name="leads"), with_vectors=with_vectors)
    result = await archive.ask.search("what was there before the memory of checkout pod", limit=25, flat=True)
    found_by = {hit.record.name: hit.found_by for hit in result.hits}
    assert found_by["leads"][0] is (FoundBy.MEANING if with_vectors else FoundBy.WORDS)
    assert found_by["walk"] == (FoundBy.INCIDENT,)


async def put_in_the_order_of_uids(owner: Any) -> None:
    """Store the rows in another order, as a restored backup may; the uids are random."""
    await owner.execute("CLUSTER datastorage.audit_records_y2026m03 USING audit_records_y2026m03_pkey")


async def test_the_same_records_come_along_wherever_postgresql_has_put_them(
    archive: SearchableArchive, owner: Any
) -> None:
    """All of them happened in the same second, and there are more than a search looks at."""
    same = "2026-03-05T09:00:00Z"
    await fill_with_an_answer_and_much_else(archive)
    await archive.put(
        *(said("rr-1", f"sung n{n}", name=f"song {n}", creationTimestamp=same) for n in range(60))
    )
    before = await archive.ask.search(_ABOUT_MEMORY, limit=40, flat=True)
    assert (FoundBy.INCIDENT,) in {hit.found_by for hit in before.hits}
    await put_in_the_order_of_uids(owner)
    assert await archive.ask.search(_ABOUT_MEMORY, limit=40, flat=True) == before


@pytest.mark.parametrize("mode", MODES)
async def test_the_same_records_of_a_text_are_found_wherever_postgresql_has_put_them(
    archive: SearchableArchive, owner: Any, mode: SearchMode
) -> None:
    """All of them were created in the same second, and there are more than an answer shows."""
    same = "2026-03-05T09:00:00Z"
    await archive.put(
        *(said(f"rr-{n}", "memory limit reached", name=f"a{n}", creationTimestamp=same) for n in range(60))
    )
    before = await archive.ask.search("memory limit reached", mode=mode)
    assert len(before.hits) == 3
    await put_in_the_order_of_uids(owner)
    assert await archive.ask.search("memory limit reached", mode=mode) == before


@pytest.fixture(scope="module")
def drawn(databases: TestDatabases) -> TestDatabase:
    """Records of a few incidents, with a few texts; the test only reads."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as made:
            await made.put(
                *(
                    said(f"rr-{n * n % 7}", _TEXTS[n * n * n % 13 % len(_TEXTS)], name=f"o{n}")
                    for n in range(90)
                ),
                *(
                    action_trace({**TRACE_SPEC, "correlationID": f"rr-{n % 5}",
                                  "model": {"reasoning": _TEXTS[n % 11 % len(_TEXTS)]}},
                                 uid=_uid(n // 2), generation=1 + n % 2)
                    for n in range(20)
                ),
            )  # fmt: skip
        return database

    return asyncio.run(fill())


_WORDS = ("memory", "limit", "disk", "full", "checkout", "pod", "10.4.7.19", "certificate", "-node")
_TEXTS = (
    "memory limit reached by checkout", "memory limit raised", "disk full", "disk nearly full on a node",
    "certificate expired", "checkout pod restarted", "pod evicted from 10.4.7.19", "limit of the disk",
    "checkout has 10.4.7.19 as its address", "node drained",
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    words=st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5, unique=True).filter(
        lambda w: w != ["-node"]
    ),
    mode=st.sampled_from(MODES),
    limit=st.integers(1, 30),
)
async def test_whatever_is_asked_the_limits_and_the_order_hold(
    drawn: TestDatabase, words: list[str], mode: SearchMode, limit: int
) -> None:
    question = " ".join(words)
    async with searchable(drawn) as made:
        page = await made.ask.search(question, mode=mode, limit=limit)
        flat = await made.ask.search(question, mode=mode, limit=limit, flat=True)
        longer = await made.ask.search(question, mode=mode, limit=1_000, flat=True)
    scores = [hit.score for hit in flat.hits]
    assert scores == sorted(scores, reverse=True)
    for result, most in ((page, 3), (flat, limit)):
        assert max(Counter(map(incident_of, result.hits)).values(), default=0) <= most
        assert max(Counter(_text(hit) for hit in result.hits).values(), default=0) <= 3
    # Those with a clue come first; a similarity may be 1, but there are no clues by meaning alone.
    with_clue = [hit.score >= 1 and mode is not SearchMode.VECTOR for hit in page.hits]
    assert with_clue == sorted(with_clue, reverse=True)
    runs = [run for run, _ in groupby(zip(map(incident_of, page.hits), with_clue, strict=True))]
    assert len(runs) == len(set(runs))
    best: dict[str, list[float]] = {}
    for hit in page.hits:
        best.setdefault(incident_of(hit), []).append(hit.score)
    firsts = [run[0] for run in best.values()]
    assert firsts == sorted(firsts, reverse=True)
    assert all(run == sorted(run, reverse=True) for run in best.values())
    # A page is full unless the limits leave no more.
    possible = sum(min(3, n) for n in Counter(map(incident_of, longer.hits)).values())
    assert len(page.hits) == min(limit, possible)


def _text(hit: SearchHit) -> str:
    spec = hit.record.spec
    return str(spec.get("message") or (spec["actionType"], spec["model"]["reasoning"]))
