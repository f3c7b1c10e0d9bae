"""A search looks as far down as it must, and goes on by one way if the other fails."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import OverloadedError, TransientError, WorkRefusedError
from datastorage.query.filters import SearchMode
from datastorage.query.search import Searcher
from datastorage.query.searchresult import SearchResult
from datastorage.storage import clues
from datastorage.storage.criteria import Criteria
from datastorage.storage.fulltext import FullText, Worded
from datastorage.storage.hits import HitReader
from datastorage.storage.ranking import RankLimits
from datastorage.storage.wording import Wording
from harness.objects import TRACE_SPEC, action_trace, audit_record
from harness.postgres import TestDatabase
from tests.support.archive import SearchableArchive, searchable

_SPEC = {"type": "Remediation", "action": "act", "phase": "Completed"}
_OLD, _NEW = "2026-01-01T00:00:{:02}Z", "2026-02-01T00:{:02}:{:02}Z"


def said(message: str, name: str, created: str, incident: str | None = None) -> dict[str, Any]:
    spec = {**_SPEC, "message": message, **({"correlationID": incident} if incident else {})}
    return audit_record(spec, name=name, creationTimestamp=created)


def storm(message: str, count: int, incident: str | None = None) -> list[dict[str, Any]]:
    """Return records of February; {n} in the message is the number of each."""
    return [
        said(message.format(n=n), f"storm{n}", _NEW.format(n // 60, n % 60), incident) for n in range(count)
    ]


def others(count: int) -> list[dict[str, Any]]:
    """Return records of January which all say something else, each of an incident of its own."""
    return [said(f"registry refused image{n}", f"other{n}", _OLD.format(n), f"rr-{n}") for n in range(count)]


def later(count: int) -> list[dict[str, Any]]:
    """Return records of March with other words."""
    return [
        said(f"something else {n}", f"later{n}", f"2026-03-01T00:{n // 60:02}:{n % 60:02}Z")
        for n in range(count)
    ]


def names(result: SearchResult) -> list[str]:
    return [hit.record.name for hit in result.hits]


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


def without_vectors(archive: SearchableArchive) -> Searcher:
    return Searcher(HitReader(archive.questions), FullText(archive.questions), None)


async def worded(archive: SearchableArchive, words: Sequence[str], *, limit: int) -> Worded:
    """Return what has the words, where 30 rows are ranked, and of those that say the same 5 among others."""
    limits = RankLimits(few_records=10, newest=30, newest_of_text=5)
    found = await FullText(archive.questions, limits=limits).find(
        Criteria(), Wording(words), limit=limit, per_text=3
    )
    assert found is not None
    return found


def refuse(monkeypatch: pytest.MonkeyPatch, finder: object, error: TransientError) -> None:
    """Let the ``find`` of a class or module fail."""

    async def refused(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(finder, "find", refused)


def refuse_further_down(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the search by words fail from the second time on; return the list of the limits that it gets."""
    find, limits = FullText.find, list[int]()

    async def refused_later(self: FullText, *arguments: Any, limit: int, per_text: int) -> Any:
        limits.append(limit)
        if len(limits) > 1:
            raise WorkRefusedError("it took too long")
        return await find(self, *arguments, limit=limit, per_text=per_text)

    monkeypatch.setattr(FullText, "find", refused_later)
    return limits


@pytest.mark.oldest_postgres
async def test_an_event_that_recurs_does_not_hide_what_other_records_say(archive: SearchableArchive) -> None:
    """More records say the same than are ranked; three of them are shown."""
    await archive.put(*others(20), *storm("registry is away", 60))
    ranking = archive.limited(rank=RankLimits(few_records=10, newest=30)).ask
    found = names(await ranking.search("registry", mode=SearchMode.TEXT, limit=10))
    assert len(found) == 10
    assert len([name for name in found if name.startswith("storm")]) == 3


async def test_what_a_recurring_event_would_hide_is_ranked_as_well(archive: SearchableArchive) -> None:
    await archive.put(*others(3), *storm("registry is away", 60))
    found = await worded(archive, ["registry"], limit=20)
    created = sorted(match.place.key.created_at for match in found.matches)
    assert [f"{time:%FT%TZ}" for time in created] == [
        *(_OLD.format(n) for n in range(3)), *(_NEW.format(0, n) for n in range(57, 60)),
    ]  # fmt: skip
    assert not found.is_all


async def test_older_rows_are_looked_for_where_an_event_fills_a_time(archive: SearchableArchive) -> None:
    """The rows are first looked for in a time in which there are enough of them."""
    await archive.put(
        *others(20),
        *(
            said(f"something else {n}", f"w{n}", f"2026-01-02T00:{n // 60:02}:{n % 60:02}Z")
            for n in range(400)
        ),
        *storm("registry is away", 200),
    )
    found = await worded(archive, ["registry"], limit=30)
    assert len(found.matches) == 20 + 3


async def test_earlier_generations_of_traces_do_not_hide_one_that_says_the_same(
    archive: SearchableArchive,
) -> None:
    """All say the same at first; one never says anything else, and is the oldest."""

    def uid_of(number: int) -> str:
        return f"00000000-0000-4000-8000-{number:012}"

    def trace(number: int, generation: int, reasoning: str, created: str) -> dict[str, Any]:
        spec = {**TRACE_SPEC, "model": {"reasoning": reasoning}}
        return action_trace(spec, uid=uid_of(number), generation=generation, creationTimestamp=created)

    await archive.put(
        trace(0, 1, "registry is asked again", _OLD.format(0)),
        *(
            trace(n, generation, reasoning, _NEW.format(0, n))
            for n in range(1, 31)
            for generation, reasoning in ((1, "registry is asked again"), (2, "all is well"))
        ),
    )
    found = await worded(archive, ["registry"], limit=20)
    assert [match.place.key.uid for match in found.matches] == [uid_of(0)]


async def test_an_incident_with_all_the_newest_records_does_not_hide_others(
    archive: SearchableArchive,
) -> None:
    """The records that are ranked are a page of one incident alone, so the search looks further down."""
    await archive.put(*others(20), *storm("registry is away x{n}", 60, "rr-storm"))
    ranking = archive.limited(rank=RankLimits(few_records=10, newest=30)).ask
    found = names(await ranking.search("registry", mode=SearchMode.TEXT, limit=10))
    assert len(found) == 10
    assert len([name for name in found if name.startswith("storm")]) == 3


async def test_a_search_that_goes_by_words_alone_looks_as_far_down(archive: SearchableArchive) -> None:
    await archive.put(*others(20), *storm("registry is away x{n}", 120, "rr-storm"))
    found = await without_vectors(archive).search(
        "registry", Criteria(), mode=SearchMode.HYBRID, limit=10, flat=False
    )
    assert (found.mode, len(found.hits)) == (SearchMode.TEXT, 10)
    assert found.degraded is not None
    assert "DATASTORAGE_EMBEDDING_PROVIDER is none" in found.degraded


async def test_a_recurring_event_does_not_hide_its_own_record_with_a_rare_word(
    archive: SearchableArchive,
) -> None:
    """Records with the same text may have other details, which are searched by words, too.

    None of the newest records has one of the words, so that both count as rare.
    """
    first = said("probe of checkout failed", "approved", _OLD.format(0))
    first["spec"]["details"] = {"approver": "okafor"}
    await archive.put(first, *storm("probe of checkout failed", 20), *later(560))
    found = await worded(archive, ["probe", "okafor"], limit=20)
    created = [match.place.key.created_at for match in found.matches]
    assert f"{created[0]:%FT%TZ}" == _OLD.format(0)


@pytest.mark.parametrize("mode", [SearchMode.VECTOR, SearchMode.HYBRID])
async def test_newer_records_with_an_excluded_word_do_not_hide_older_ones_without_it(
    archive: SearchableArchive, mode: SearchMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datastorage.query.search._LOST_TEXTS", 2)
    texts = [f"the registry of zone {n} refused to answer" for n in range(5)]
    for number, text in enumerate(texts):
        newer = storm(text, 5)
        for record in newer:
            record["spec"]["details"] = {"store": "postgres"}
        await archive.put(said(text, f"old{number}", _OLD.format(0)), *newer)
    await archive.put(*later(20))
    result = await archive.ask.search("image server unreachable -postgres", mode=mode, limit=50)
    found = {hit.record.name for hit in result.hits}
    assert {name for name in found if not name.startswith("later")} == {f"old{n}" for n in range(5)}


async def test_shorter_records_do_not_hide_a_longer_one_that_says_the_same_and_more(
    archive: SearchableArchive,
) -> None:
    """A record's length does not matter to a search by both, though its share of the words is smaller."""
    long = said("probe of checkout failed", "long", _OLD.format(0))
    long["spec"]["details"] = {"approver": "okafor", "log": " ".join(f"entry{n}" for n in range(1_500))}
    await archive.put(long, *storm("probe of checkout failed", 6), *later(100))
    result = await archive.ask.search("probe checkout okafor approver zebra", limit=3)
    assert result.hits[0].record.name == "long"


@pytest.mark.parametrize(
    "error", [WorkRefusedError("it took too long"), OverloadedError("no connection is free")], ids=str
)
async def test_where_words_can_not_be_searched_meaning_is_the_answer(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch, error: TransientError
) -> None:
    await archive.put(*others(3))

    refuse(monkeypatch, FullText, error)
    found = await archive.ask.search("registry refused image1")
    assert (found.mode, found.degraded) == (SearchMode.VECTOR, str(error))
    assert names(found)[0] == "other1"


async def test_where_neither_can_be_searched_the_error_is_that_of_the_words(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, FullText, WorkRefusedError("it took too long"))
    with pytest.raises(WorkRefusedError, match="it took too long"):
        await without_vectors(archive).search(
            "registry", Criteria(), mode=SearchMode.HYBRID, limit=10, flat=False
        )


async def test_where_clues_can_not_be_looked_up_the_ranking_is_the_answer(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.put(*others(3))

    refuse(monkeypatch, clues, WorkRefusedError("it was interrupted"))
    found = await archive.ask.search("registry refused image1", mode=SearchMode.TEXT)
    assert names(found)[0] == "other1"
    assert found.degraded is None


async def test_where_looking_further_down_fails_what_was_found_is_the_answer(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.put(*others(3), *storm("registry is away x{n}", 120, "rr-storm"))
    limits = refuse_further_down(monkeypatch)
    found = await archive.ask.search("registry", mode=SearchMode.TEXT, limit=10)
    assert len(limits) == 2
    assert 3 <= len(found.hits) < 10


async def test_where_a_part_fails_further_down_what_both_have_found_is_the_answer(
    archive: SearchableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.put(*others(3), *storm("registry is away x{n}", 120, "rr-storm"))
    # Where a search looks first, all are of one incident, of which it shows three.
    expected = await archive.ask.search("registry away", limit=3)
    limits = refuse_further_down(monkeypatch)
    found = await archive.ask.search("registry away", limit=20)
    assert len(limits) == 2
    assert (found.mode, found.degraded) == (SearchMode.HYBRID, None)
    assert len(names(found)) == 3
    assert names(found) == names(expected)
    assert found.hits == expected.hits


async def test_hits_that_the_answer_has_no_room_for_are_counted(archive: SearchableArchive) -> None:
    await archive.put(*(said(f"registry {n} {'x' * 1_000}", f"large{n}", _OLD.format(n)) for n in range(9)))
    found = await archive.limited(max_bytes=4_000).ask.search("registry", mode=SearchMode.TEXT)
    assert 1 < len(found.hits) < 9
    assert len(found.hits) + found.left_out == 9
    assert (await archive.ask.search("registry", mode=SearchMode.TEXT)).left_out == 0


async def test_hits_that_have_left_the_archive_are_not_counted(
    archive: SearchableArchive, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.put(*(said(f"registry {n} {'x' * 1_000}", f"large{n}", _OLD.format(n)) for n in range(9)))
    ranked = names(await archive.ask.search("registry", mode=SearchMode.TEXT))
    load_and_count = HitReader.load_and_count

    async def load_later(self: HitReader, *arguments: Any, **named: Any) -> Any:
        gone = [ranked[1], ranked[-1]]
        await owner.execute("DELETE FROM datastorage.audit_records WHERE name = ANY ($1)", gone)
        return await load_and_count(self, *arguments, **named)

    monkeypatch.setattr(HitReader, "load_and_count", load_later)
    found = await archive.ask.search("registry", mode=SearchMode.TEXT)
    assert (names(found), found.left_out) == ([ranked[0], *ranked[2:-1]], 0)
    await archive.put(*(said(f"registry {n} {'x' * 1_000}", ranked[n], _OLD.format(n)) for n in (1, 8)))
    found = await archive.limited(max_bytes=4_000).ask.search("registry", mode=SearchMode.TEXT)
    assert 1 < len(found.hits) < 7
    assert len(found.hits) + found.left_out == 7
