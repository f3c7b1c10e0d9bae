"""Histories of objects and summaries: the right records, within the rights, in bounded time."""

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage.assembly.queries import build_queries
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Searcher
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import EVERYTHING, Scope
from datastorage.storage.fulltext import FullText
from datastorage.storage.groups import GroupKey
from datastorage.storage.hits import HitReader
from datastorage.storage.pages import ArchiveReader
from datastorage.storage.summaries import Summaries
from harness.objects import action_trace, audit_record, identity_of
from harness.polling import DEADLINE_SECONDS
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.support.archive import searchable

START = datetime(2026, 3, 30, tzinfo=UTC)
UNTIL = START + timedelta(days=300)
_NAMESPACES = ("payments", "search")


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


def _object(number: int) -> dict[str, Any]:
    namespace = _NAMESPACES[number % 2]
    # Both namespaces have objects of the same names, and records are about those of the other one too.
    target = {
        "apiVersion": "v1", "kind": ("Pod", "Job")[number % 3 // 2],
        "namespace": _NAMESPACES[number // 3 % 2], "name": f"p{number % 4 // 3}",
    }  # fmt: skip
    times = {"startTime": at(number), "endTime": at(number + number * number / 100)} if number % 5 else {}
    metadata = {
        "namespace": namespace,
        "creationTimestamp": at(number * 3),
        "resourceVersion": str(1000 + number),
    }
    if number % 4 == 0:
        spec = {
            "correlationID": f"rr-{number}", "actionType": f"act-{number % 3}", "targetRef": target,
            "execution": {"status": ("Completed", "RolledBack", "Failed")[number % 3], **times},
            "effectiveness": {"score": number / 40} if number % 8 else {},
        }  # fmt: skip
        return action_trace(spec, **metadata)
    spec = {
        "correlationID": f"rr-{number}", "type": ("Execution", "Workflow")[number % 2],
        "action": f"act-{number % 3}", "phase": ("Completed", "Failed")[number % 5 // 4], **times,
    }  # fmt: skip
    return audit_record({**spec, "resourceRef": target} if number % 7 else spec, **metadata)


_OBJECTS = [_object(number) for number in range(40)]


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """Records of two namespaces about the same objects; the tests only read."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        traces = [body for body in _OBJECTS if body["kind"] == "ActionTrace"]
        # An earlier state of each trace, which no answer may count.
        before = [{**body, "spec": {**body["spec"], "execution": {"status": "Failed"}}} for body in traces]
        for body in traces:
            body["metadata"]["generation"] = 2
        async with searchable(database) as archive:
            earlier = [{**body, "metadata": {**body["metadata"], "generation": 1}} for body in before]
            await archive.put(*earlier, with_vectors=False)
            await archive.put(*_OBJECTS, with_vectors=False)
        return database

    return asyncio.run(fill())


@pytest_asyncio.fixture
async def ask(filled: TestDatabase) -> AsyncIterator[ArchiveQueries]:
    database = Database(filled.service_url, pool_size=2)
    yield build_queries(database)
    await database.close()


def _target(body: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = body["spec"]
    found: Mapping[str, Any] = spec.get("targetRef") or spec.get("resourceRef") or {}
    return found


async def _history(
    ask: ArchiveQueries, filter_: Filter, limit: int, scope: Scope = EVERYTHING
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    cursor = None
    for _ in range(50):
        page = await ask.target_history(filter_, limit=limit, cursor=cursor, scope=scope)
        entries += [entry.as_json() for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            return entries
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_history_has_all_records_about_an_object(ask: ArchiveQueries, limit: int) -> None:
    expected = [
        body for body in reversed(_OBJECTS)
        if dict(_target(body)) == {"apiVersion": "v1", "kind": "Pod", "namespace": "search", "name": "p0"}
    ]  # fmt: skip
    assert {body["kind"] for body in expected} == {"ActionTrace", "AuditRecord"}
    asked = Filter(target_kind="Pod", target_namespace="search", target_name="p0")
    found = await _history(ask, asked, limit)
    assert [(entry["uid"], entry["generation"]) for entry in found] == list(map(identity_of, expected))
    assert {entry["namespace"] for entry in found} == set(_NAMESPACES)
    failed = await _history(
        ask, Filter(target_kind="Pod", target_namespace="search", target_name="p0", phase="Failed"), limit
    )
    assert {entry["outcome"] for entry in failed} == {"Failed"}
    anywhere = await _history(ask, Filter(target_kind="Pod", target_name="p0"), limit)
    assert {entry["target"]["namespace"] for entry in anywhere} == set(_NAMESPACES)


async def test_a_history_needs_an_object(ask: ArchiveQueries) -> None:
    for filter_ in (Filter(), Filter(target_kind="Pod"), Filter(target_name="p0")):
        with pytest.raises(InvalidQueryError, match="needs the kind and the name"):
            await ask.target_history(filter_)
    assert await _history(ask, Filter(target_kind="Pod", target_name="none"), 10) == []


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_history_stays_within_the_scope(ask: ArchiveQueries, limit: int) -> None:
    asked = Filter(target_kind="Pod", target_namespace="search", target_name="p0")
    since = START + timedelta(hours=40)
    found = await _history(ask, asked, limit, Scope("payments", since))
    assert found
    assert {entry["namespace"] for entry in found} == {"payments"}
    assert min(entry["createdAt"] for entry in found) >= since.isoformat()[:19]
    everything = await _history(ask, asked, 100)
    assert len([each for each in everything if each["namespace"] == "payments"]) > len(found)
    assert await _history(ask, Filter(target_kind="Pod", target_name="p0", namespace="search"), limit,
                          Scope("payments")) == []  # fmt: skip


async def test_the_cursor_of_a_history_belongs_to_its_question(ask: ArchiveQueries) -> None:
    asked = Filter(target_kind="Pod", target_namespace="search", target_name="p0")
    cursor = (await ask.target_history(asked, limit=1)).cursor
    assert cursor is not None
    for scope in (Scope("payments"), Scope(None, START)):
        with pytest.raises(InvalidQueryError, match="another question"):
            await ask.target_history(asked, limit=1, cursor=cursor, scope=scope)
    with pytest.raises(InvalidQueryError, match="another question"):
        await ask.target_history(Filter(target_kind="Pod", target_name="p0"), limit=1, cursor=cursor)
    with pytest.raises(InvalidQueryError, match="another question"):
        await ask.list(asked, limit=1, cursor=cursor)
    listed = (await ask.list(asked, limit=1)).cursor
    with pytest.raises(InvalidQueryError, match="another question"):
        await ask.target_history(asked, limit=1, cursor=listed)


@pytest.mark.oldest_postgres
async def test_an_entry_says_whether_it_helped(cloned: TestDatabase) -> None:
    target = {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"}
    trace = action_trace(
        {"correlationID": "rr-1", "actionType": "restart\npod", "targetRef": target,
         "model": {"name": "gpt", "confidence": 0.75, "reasoning": "it leaks"},
         "execution": {"status": "Failed", "error": "denied\nby  the policy."},
         "effectiveness": {"score": 0.2, "notes": "came back"}},
        creationTimestamp="2026-03-05T12:00:00Z",
    )  # fmt: skip
    done = audit_record(
        {"type": "Execution", "action": "scale", "phase": "Completed", "correlationID": "rr-2",
         "message": "x" * 5000, "resourceRef": target, "execution": {"success": False}},
        creationTimestamp="2026-03-05T11:00:00Z",
    )  # fmt: skip
    silent = audit_record(
        {"type": "AIAnalysis", "action": "analyse", "phase": "Completed", "correlationID": "rr-3",
         "resourceRef": target, "aiAnalysis": {"model": "llama"}},
        creationTimestamp="2026-03-05T10:00:00Z",
    )  # fmt: skip
    async with searchable(cloned) as archive:
        await archive.put(trace, done, silent, with_vectors=False)
        found = await _history(archive.ask, Filter(target_kind="Pod", target_name="api"), 10)
    chosen = ("action", "outcome", "success", "effectivenessScore", "error", "model", "modelConfidence")
    assert [tuple(entry[name] for name in chosen) for entry in found] == [
        ("restart\npod", "Failed", None, 0.2, "denied\nby  the policy.", "gpt", 0.75),
        ("scale", "Completed", False, None, None, None, None),
        ("analyse", "Completed", None, None, None, "llama", None),
    ]
    assert found[0]["correlationID"] == "rr-1"
    assert found[0]["target"] == {"kind": "Pod", "namespace": "shop", "name": "api"}
    failed, scaled, analysed = (entry["sentence"] for entry in found)
    assert failed == (
        "2026-03-05 12:00 UTC: restart pod on Pod/shop/api: Failed. Error: denied by the policy. "
        "Effectiveness: 0.2 of 1 (came back). Model: gpt (confidence 0.75)."
    )
    assert scaled == (
        "2026-03-05 11:00 UTC: scale on Pod/shop/api: Completed. It did not have the intended effect. "
        f"Remark: {'x' * 199}…."
    )
    assert analysed == "2026-03-05 10:00 UTC: analyse on Pod/shop/api: Completed. Model: llama."


def _seconds(spec: Mapping[str, Any]) -> float | None:
    times = spec.get("execution", spec) if "actionType" in spec else spec
    if "startTime" not in times:
        return None
    return (
        datetime.fromisoformat(times["endTime"]) - datetime.fromisoformat(times["startTime"])
    ).total_seconds()


def _value(body: Mapping[str, Any], key: GroupKey) -> str | None:
    spec, is_trace = body["spec"], body["kind"] == "ActionTrace"
    values: dict[GroupKey, str | None] = {
        GroupKey.TYPE: "ActionTrace" if is_trace else spec.get("type"),
        GroupKey.NAMESPACE: body["metadata"]["namespace"],
        GroupKey.ACTION: spec["actionType" if is_trace else "action"],
        GroupKey.TARGET_KIND: _target(body).get("kind"),
        GroupKey.DAY: body["metadata"]["creationTimestamp"][:10],
    }
    return values[key]


def _expected(
    bodies: Sequence[Mapping[str, Any]], keys: Sequence[GroupKey]
) -> dict[tuple[str | None, ...], Any]:
    """The summary once more, over the objects themselves."""
    found = {}
    groups = {tuple(_value(body, key) for key in keys) for body in bodies}
    for group in groups:
        members = [body["spec"] for body in bodies if tuple(_value(body, key) for key in keys) == group]
        durations = sorted(seconds for spec in members if (seconds := _seconds(spec)) is not None)
        scores = [spec["effectiveness"]["score"] for spec in members if spec.get("effectiveness")]
        outcomes = [spec["phase"] if "phase" in spec else spec["execution"]["status"] for spec in members]
        found[group] = (
            len(members),
            sum(outcome in {"Failed", "RolledBack"} for outcome in outcomes),
            len(durations),
            statistics.fmean(durations) if durations else None,
            statistics.median(durations) if durations else None,
            len(scores),
            statistics.fmean(scores) if scores else None,
        )
    return found


_KEYS = st.lists(st.sampled_from(GroupKey), min_size=1, max_size=2, unique=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    keys=_KEYS,
    asked=st.sampled_from([{}, {"phase": "Failed"}, {"action": "act-1"}, {"kind": "ActionTrace"}]),
    namespace=st.sampled_from([None, *_NAMESPACES, "none"]),
    since=st.sampled_from([START, START + timedelta(hours=50)]),
)
async def test_a_summary_counts_the_records_within_the_scope(
    filled: TestDatabase,
    keys: list[GroupKey],
    asked: dict[str, Any],
    namespace: str | None,
    since: datetime,
) -> None:
    chosen = [
        body
        for body in _OBJECTS
        if namespace in {None, body["metadata"]["namespace"]}
        and datetime.fromisoformat(body["metadata"]["creationTimestamp"]) >= since
        and ("kind" not in asked or body["kind"] == asked["kind"])
        and ("action" not in asked or _value(body, GroupKey.ACTION) == asked["action"])
        and ("phase" not in asked
             or body["spec"].get("phase", body["spec"].get("execution", {}).get("status")) == "Failed")
    ]  # fmt: skip
    database = Database(filled.service_url, pool_size=1)
    found = await build_queries(database).summary(
        Filter(since=START, until=UNTIL, **asked), keys, scope=Scope(namespace, since)
    )
    await database.close()
    expected = _expected(chosen, keys)
    assert {
        group.key: (
            group.records, group.failed, group.timed,
            None if group.mean_seconds is None else pytest.approx(group.mean_seconds),
            None if group.p50_seconds is None else pytest.approx(group.p50_seconds),
            group.assessed, None if group.effectiveness is None else pytest.approx(group.effectiveness),
        )
        for group in found.groups
    } == expected  # fmt: skip
    assert (found.all_groups, found.all_records, found.is_cut) == (len(expected), len(chosen), False)
    days = [number for number, key in enumerate(keys) if key is GroupKey.DAY]
    order = [([group.key[number] for number in days], group.records) for group in found.groups]
    assert order == sorted(order, reverse=True)


@pytest.mark.oldest_postgres
async def test_a_summary_of_a_few_records(cloned: TestDatabase) -> None:
    async with searchable(cloned) as archive:
        await archive.put(audit_record(), audit_record(), action_trace(), with_vectors=False)
        found = await archive.ask.summary(
            Filter(since=START - timedelta(days=60), until=UNTIL), ["type", "day"]
        )
    assert [(group.key, group.records) for group in found.groups] == [
        (("Remediation", "2026-03-05"), 2), (("ActionTrace", "2026-03-05"), 1),
    ]  # fmt: skip


async def test_a_summary_that_is_cut_says_so(ask: ArchiveQueries) -> None:
    asked = Filter(since=START, until=UNTIL)
    all_days = await ask.summary(asked, ["day"])
    found = await ask.summary(asked, ["day"], limit=2)
    assert found.groups == all_days.groups[:2]
    assert (found.is_cut, found.all_groups, found.all_records) == (True, len(all_days.groups), len(_OBJECTS))
    value = found.as_json()
    assert (value["truncated"], value["groups"], value["records"]) == (True, found.all_groups, len(_OBJECTS))
    assert value["items"][0]["group"] == {"day": max(_value(body, GroupKey.DAY) or "" for body in _OBJECTS)}
    nothing = await ask.summary(Filter(since=UNTIL, until=UNTIL + timedelta(days=1)), ["day"])
    assert (nothing.groups, nothing.all_records, nothing.is_cut) == ((), 0, False)


async def test_a_summary_is_bounded_in_time(ask: ArchiveQueries) -> None:
    found = await ask.summary(Filter(until=UNTIL), ["TYPE", " day "])
    assert (found.since, found.keys) == (UNTIL - timedelta(days=7), (GroupKey.TYPE, GroupKey.DAY))
    for asked in (
        Filter(since=START - timedelta(days=400), until=START),
        Filter(since=datetime(2014, 1, 1, tzinfo=UTC)),
    ):
        with pytest.raises(InvalidQueryError, match="covers 366 days at most: give a later since"):
            await ask.summary(asked, ["day"])
    with pytest.raises(InvalidQueryError, match="has no time zone"):
        await ask.summary(Filter(until=datetime(2026, 1, 1)), ["day"])  # noqa: DTZ001
    with pytest.raises(InvalidQueryError, match="until must be at least 7 days after"):
        await ask.summary(Filter(until=datetime(1, 1, 2, tzinfo=UTC)), ["day"])


@pytest.mark.parametrize(
    "by", [[], [""], ["colour"], ["day", "day"], ["day", "type", "action"], ["1; DROP TABLE x"]]
)
async def test_other_keys_are_refused_with_the_known_ones(ask: ArchiveQueries, by: list[str]) -> None:
    with pytest.raises(InvalidQueryError, match="one or two of type, namespace, action, targetKind, day"):
        await ask.summary(Filter(), by)


async def test_every_pair_of_keys_is_a_statement(ask: ArchiveQueries) -> None:
    for pair in itertools.permutations(GroupKey, 2):
        found = await ask.summary(Filter(since=START, until=UNTIL), pair)
        assert sum(group.records for group in found.groups) == len(_OBJECTS), pair


async def test_a_summary_that_takes_too_long_is_given_up(filled: TestDatabase) -> None:
    """Somebody holds the table, so that the statement can only wait."""
    database = Database(filled.service_url, pool_size=1)
    searcher = Searcher(HitReader(database), FullText(database), None)
    impatient, ask = (
        ArchiveQueries(ArchiveReader(database), searcher, Summaries(database, seconds=seconds))
        for seconds in (0.2, DEADLINE_SECONDS)
    )
    owner = await connect(filled.owner_url)
    async with owner.transaction():
        await owner.execute("LOCK datastorage.action_traces IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(InvalidQueryError, match="takes too long: choose a shorter time"):
            await impatient.summary(Filter(since=START, until=UNTIL), ["day"])
    assert (await ask.summary(Filter(since=START, until=UNTIL), ["day"])).all_records == len(_OBJECTS)
    await owner.close()
    await database.close()
