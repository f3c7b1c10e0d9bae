"""The order of records, and pages that begin exactly where the last one ended."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import InvalidQueryError
from datastorage.query.archivedrecord import ArchivedRecord, Page
from datastorage.query.timeline import Timeline
from datastorage.storage.migrate import migrate
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.postgres import TestDatabase, connect
from tests.support.archive import SearchableArchive, searchable
from tests.support.migrating import migrating_to

SECOND = "2026-03-05T10:20:30Z"
REMEDIATION = AUDIT_SPEC["correlationID"]
_MAX_PAGES = 50
Body = Mapping[str, Any]


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


def names(records: Iterable[ArchivedRecord]) -> list[str]:
    return [f"{record.name}/{record.generation}" for record in records]


def written(body: Body, version: int) -> dict[str, Any]:
    """Return the object as the cluster wrote it with this version."""
    return {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}


def next_generation(body: Body, version: int, **spec: Any) -> dict[str, Any]:
    metadata = {**body["metadata"], "generation": body["metadata"]["generation"] + 1}
    return written({**body, "metadata": metadata, "spec": {**body["spec"], **spec}}, version)


async def timeline(archive: SearchableArchive, limit: int = 1000) -> list[str]:
    """Return the names in a timeline, page by page."""
    found: list[str] = []
    cursor: str | None = None
    times: list[datetime] = []
    for _ in range(_MAX_PAGES):
        page = await archive.ask.timeline(REMEDIATION, limit=limit, cursor=cursor)
        assert len(page.entries) <= limit
        found += names(entry.record for entry in page.entries)
        times += [entry.at for entry in page.entries]
        cursor = page.cursor
        assert page.complete == (cursor is None)
        if cursor is None:
            assert times == sorted(times)
            return found
    raise AssertionError("the pages have no end")


async def listed(archive: SearchableArchive) -> list[str]:
    return names((await archive.ask.list(limit=1000)).records)


def steps() -> list[dict[str, Any]]:
    """Return what a controller wrote in one second, of both kinds, in the order of writing."""
    trace = written(action_trace(name="trace"), 1002)
    return [
        written(audit_record(name="received"), 1001),
        trace,
        written(audit_record(name="analysed"), 1003),
        next_generation(trace, 1004, parameters={"replicas": 3}),
        written(audit_record(name="approved"), 1005),
        next_generation(next_generation(trace, 0), 1006, execution={"status": "Completed"}),
        written(audit_record(name="closed"), 1007),
    ]


IN_ORDER = ["received/1", "trace/1", "analysed/1", "trace/2", "approved/1", "trace/3", "closed/1"]


@pytest.mark.parametrize("seed", range(5))
async def test_within_a_second_the_order_is_that_of_writing(archive: SearchableArchive, seed: int) -> None:
    """The order of the sweep's list and the batches make no difference."""
    bodies = steps()
    random.Random(seed).shuffle(bodies)
    await archive.put(*bodies[:3])
    await archive.put(*bodies[3:])
    assert await timeline(archive) == IN_ORDER
    # Newest first; a trace has the position of its creation.
    assert await listed(archive) == ["closed/1", "approved/1", "analysed/1", "trace/3", "received/1"]


async def test_without_the_order_of_writing_the_order_is_that_of_storing(
    archive: SearchableArchive, owner: Any
) -> None:
    bodies = [audit_record(name=f"step-{number}") for number in range(9)]
    for body in bodies:
        await archive.put(written(body, 0))
    expected = [f"step-{number}/1" for number in range(9)]
    assert await timeline(archive) == expected
    assert await listed(archive) == expected[::-1]
    # All at once, too.
    await owner.execute("TRUNCATE datastorage.audit_records")
    await archive.put(*bodies)
    assert await timeline(archive) == expected
    assert await listed(archive) == expected[::-1]


@pytest.mark.oldest_postgres
async def test_generations_stored_in_the_wrong_order_are_shown_in_the_right_one(
    archive: SearchableArchive,
) -> None:
    trace = action_trace(name="trace")
    second = next_generation(trace, 100)
    for body in (next_generation(second, 100), second, trace):
        await archive.put(body)
    assert await timeline(archive) == ["trace/1", "trace/2", "trace/3"]
    assert names(await archive.ask.history(trace["metadata"]["uid"])) == ["trace/3", "trace/2", "trace/1"]


async def test_the_fraction_of_a_start_counts(archive: SearchableArchive) -> None:
    """Creation times have whole seconds; a controller's startTime may be more exact."""
    fractions = {"late": ".900001Z", "early": ".1Z", "middle": ".9Z"}
    for version, (name, fraction) in enumerate(fractions.items(), start=1):
        spec = {**AUDIT_SPEC, "startTime": SECOND[:-1] + fraction}
        await archive.put(written(audit_record(spec, name=name), version))
    assert await timeline(archive) == ["early/1", "middle/1", "late/1"]
    assert await listed(archive) == ["late/1", "middle/1", "early/1"]


async def test_a_time_that_was_never_set_is_no_place_in_a_timeline(archive: SearchableArchive) -> None:
    unset = "0001-01-01T00:00:00Z"
    execution = {"status": "Completed", "startTime": "2026-03-05T10:20:31Z", "endTime": unset}
    spec = {**TRACE_SPEC, "execution": execution, "effectiveness": {"assessedAt": unset}}
    await archive.put(
        audit_record({**AUDIT_SPEC, "startTime": unset}, name="first"),
        action_trace(spec, name="second", creationTimestamp="2026-03-05T10:20:30Z"),
        audit_record(name="third", creationTimestamp="2026-03-05T10:20:32Z"),
    )
    found = await archive.ask.timeline(REMEDIATION)
    assert names(entry.record for entry in found.entries) == ["first/1", "second/1", "third/1"]
    assert [entry.at.second for entry in found.entries] == [30, 31, 32]


async def _follow(
    ask: Callable[[str | None], Awaitable[Page | Timeline]], meanwhile: Callable[[], Awaitable[None]]
) -> list[str]:
    """Return what is on all pages; something happens between each two."""
    found: list[str] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await ask(cursor)
        records: Sequence[ArchivedRecord] = (
            page.records if isinstance(page, Page) else [entry.record for entry in page.entries]
        )
        found += names(records)
        cursor = page.cursor
        if cursor is None:
            return found
        await meanwhile()
    raise AssertionError("the pages have no end")


@pytest.mark.oldest_postgres
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_within_a_second_lose_and_repeat_nothing(archive: SearchableArchive, limit: int) -> None:
    """While pages are read, every trace gets generations and other records come."""
    traces = [written(action_trace(name=f"trace-{n}"), 10 * n + 1) for n in range(4)]
    records = [written(audit_record(name=f"record-{n}"), 10 * n + 2) for n in range(4)]
    await archive.put(*traces, *records)
    versions = itertools.count(100)

    async def work_goes_on() -> None:
        for number, trace in enumerate(traces):
            traces[number] = next_generation(trace, next(versions), execution={"status": "Executing"})
        await archive.put(*traces, written(audit_record(name="late"), next(versions)))

    found = await _follow(lambda cursor: archive.ask.list(limit=limit, cursor=cursor), work_goes_on)
    names_found = [name.partition("/")[0] for name in found]
    expected = [f"{what}-{number}" for number in (3, 2, 1, 0) for what in ("record", "trace")]
    assert names_found == expected


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_of_a_timeline_lose_and_repeat_nothing(archive: SearchableArchive, limit: int) -> None:
    """Entries that come meanwhile follow later or belong to earlier pages; the others are shown once."""
    await archive.put(*steps())
    late = itertools.count()

    async def work_goes_on() -> None:
        earlier = audit_record(name=f"late-{next(late)}", creationTimestamp="2026-03-05T10:20:29Z")
        await archive.put(written(earlier, 9000))

    found = await _follow(
        lambda cursor: archive.ask.timeline(REMEDIATION, limit=limit, cursor=cursor), work_goes_on
    )
    assert found == IN_ORDER


async def test_a_long_remediation_can_be_read_whole(archive: SearchableArchive) -> None:
    """It has more entries than one answer, of both kinds, stored out of order, many in one second."""
    records = [
        written(
            audit_record(
                {**AUDIT_SPEC, "startTime": f"2026-03-05T10:{20 + n // 800}:30Z"} if n % 3 else None,
                name=f"flap-{n}", creationTimestamp=f"2026-03-05T10:{20 + n // 800}:30Z",
            ),
            n,
        )
        for n in range(2_300)
    ]  # fmt: skip
    await archive.put(*random.Random(1).sample(records, len(records)), with_vectors=False)
    first = await archive.ask.timeline(REMEDIATION)
    assert (len(first.entries), first.complete) == (1000, False)
    assert await timeline(archive) == [f"flap-{n}/1" for n in range(2_300)]
    assert await timeline(archive, 999) == [f"flap-{n}/1" for n in range(2_300)]


async def test_large_records_make_short_pages_of_a_timeline(archive: SearchableArchive) -> None:
    bodies = [
        written(audit_record({**AUDIT_SPEC, "message": "x" * 2000}, name=f"big-{n}"), n) for n in range(7)
    ]
    await archive.put(*bodies)
    archive = archive.limited(max_bytes=5000)
    page = await archive.ask.timeline(REMEDIATION)
    assert (len(page.entries), page.complete) == (3, False)
    assert await timeline(archive) == [f"big-{n}/1" for n in range(7)]


async def test_a_cursor_of_another_question_is_refused(archive: SearchableArchive) -> None:
    await archive.put(*[audit_record() for _ in range(3)])
    of_list = (await archive.ask.list(limit=1)).cursor
    of_timeline = (await archive.ask.timeline(REMEDIATION, limit=1)).cursor
    # Earlier versions of the program gave such a cursor: the time, the uid and the generation.
    earlier = (
        "WyIyMDI2LTAzLTA1VDEwOjIwOjMwKzAwOjAwIiwiMGY4ZTJjMWEtNWI3ZC00YzNlLTlhNjEtMmQ0ZjZiOGMwZTEyIiwxXQ=="
    )
    for cursor in (of_timeline, earlier, "bnVsbA==", "x"):
        with pytest.raises(InvalidQueryError, match="begin without it"):
            await archive.ask.list(cursor=cursor)
    for cursor in (of_list, earlier, "bnVsbA==", "x"):
        with pytest.raises(InvalidQueryError, match="begin without it"):
            await archive.ask.timeline(REMEDIATION, cursor=cursor)


async def test_the_last_written_object_of_a_name_is_returned(archive: SearchableArchive) -> None:
    """A name may be taken again within the second; the first trace had more generations."""
    old, new = written(action_trace(name="again"), 1), written(action_trace(name="again"), 3)
    await archive.put(new, next_generation(old, 2), old)
    found = await archive.ask.get_by_name("payments", "again")
    assert found.uid == new["metadata"]["uid"]


@pytest.mark.oldest_postgres
async def test_rows_of_the_version_before_get_their_place(
    unmigrated: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = "0001-01-01T00:00:00Z"
    with migrating_to("0002", monkeypatch):
        await asyncio.to_thread(migrate, unmigrated.owner_url)
    owner = await connect(unmigrated.owner_url)
    await owner.execute("SELECT datastorage.ensure_partitions($1)", datetime(2026, 3, 1, tzinfo=UTC))
    assessments = {
        "assessed": "2026-03-05T12:20:30+01:00",
        "never": unset,
        "leap": "2026-12-31T23:59:60Z",
        "zero": "0000-05-05T10:00:00Z",
        "late": "9999-12-31T23:59:59-14:00",
        "odd": "2026-03-05T11:00:00Z",
    }
    ended = {"status": "Completed", "startTime": unset, "endTime": "2026-03-05T10:30:00Z"}
    for name, time in assessments.items():
        effectiveness = {"assessedAt": time, "notes": "\0" if name == "odd" else ""}
        spec = {**TRACE_SPEC, "execution": ended, "effectiveness": effectiveness}
        await _insert_as_before(owner, "action_traces", action_trace(spec, name=name))
    await _insert_as_before(
        owner, "audit_records", audit_record({**AUDIT_SPEC, "startTime": unset}, name="ar")
    )
    await asyncio.to_thread(migrate, unmigrated.owner_url)
    rows = await owner.fetch(
        "SELECT name, start_time, happened_at FROM datastorage.action_traces UNION ALL "
        "SELECT name, start_time, happened_at FROM datastorage.audit_records"
    )
    assert {row["start_time"] for row in rows} == {None}
    at_end = datetime(2026, 3, 5, 10, 30, tzinfo=UTC)
    expected = dict.fromkeys(assessments, at_end) | {
        "assessed": datetime(2026, 3, 5, 11, 20, 30, tzinfo=UTC),
        "ar": datetime(2026, 3, 5, 10, 20, 30, tzinfo=UTC),
    }
    assert {row["name"]: row["happened_at"] for row in rows} == expected
    await owner.close()


async def _insert_as_before(owner: Any, table: str, body: Body) -> None:
    record = record_of(body)
    columns = "correlation_id, start_time" + (", end_time, final" if table == "action_traces" else "")
    values = "$8, '0001-01-01Z'" + (", '2026-03-05T10:30:00Z', true" if table == "action_traces" else "")
    await owner.execute(
        f"INSERT INTO datastorage.{table} (uid, generation, created_at, namespace, name, content, "
        f"content_hash, {columns}) VALUES ($1, $2, $3, $4, $5, $6, $7, {values})",
        record.key.uid, record.key.generation, record.key.created_at, record.namespace, record.name,
        record.content, record.content_hash, REMEDIATION,
    )  # fmt: skip
