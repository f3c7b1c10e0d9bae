"""Pages, single records and remediations: the right records, in order, as they were stored."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage import metrics
from datastorage.errors import AmbiguousUidError, InvalidQueryError, RecordNotFoundError
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.filters import Filter
from datastorage.records.record import Via
from datastorage.storage.criteria import Scope
from datastorage.storage.write import Archive
from harness.objects import (
    AUDIT_SPEC,
    TRACE_SPEC,
    action_trace,
    audit_record,
    identity_of,
    record_of,
)
from harness.postgres import TestDatabase, TestDatabases
from tests.support.archive import SearchableArchive, searchable

START = datetime(2026, 3, 30, tzinfo=UTC)


@pytest_asyncio.fixture
async def archive(cloned: TestDatabase) -> AsyncIterator[SearchableArchive]:
    async with searchable(cloned) as made:
        yield made


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


def ids(records: Iterable[ArchivedRecord]) -> list[tuple[str, int]]:
    return [(record.uid, record.generation) for record in records]


async def all_pages(archive: SearchableArchive, filter_: Filter, limit: int) -> list[ArchivedRecord]:
    records: list[ArchivedRecord] = []
    cursor = None
    for _ in range(50):
        page = await archive.ask.list(filter_, limit=limit, cursor=cursor)
        assert len(page.records) <= limit
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records
    raise AssertionError("the pages have no end")


@pytest.mark.oldest_postgres
async def test_a_record_comes_back_with_its_bytes(archive: SearchableArchive) -> None:
    body = audit_record()
    await archive.put(body)
    record = await archive.ask.get(body["metadata"]["uid"])
    assert (record.kind, record.namespace, record.name) == (
        "AuditRecord", "payments", body["metadata"]["name"],
    )  # fmt: skip
    assert record.content == record_of(body).content
    assert record.intact
    assert record.spec == body["spec"]
    assert record.as_json()["contentHash"] == f"sha256:{record.content_hash.hex()}"


async def test_a_changed_record_is_reported(archive: SearchableArchive, owner: Any) -> None:
    body = audit_record()
    await archive.put(body)
    await owner.execute("UPDATE datastorage.audit_records SET content = content || ' '")
    record = await archive.ask.get(body["metadata"]["uid"])
    assert not record.intact
    assert record.spec == body["spec"]  # it can still be read
    await owner.execute("UPDATE datastorage.audit_records SET content = '\\x00'")
    record = await archive.ask.get(body["metadata"]["uid"])
    assert not record.intact
    assert record.object == {}


async def test_the_newest_generation_is_returned_by_default(archive: SearchableArchive) -> None:
    first = action_trace()
    second = {**first, "metadata": {**first["metadata"], "generation": 2}}
    await archive.put(first, second)
    uid = first["metadata"]["uid"]
    assert (await archive.ask.get(uid)).generation == 2
    assert (await archive.ask.get(uid, 1)).generation == 1
    assert ids(await archive.ask.history(uid)) == [(uid, 2), (uid, 1)]
    with pytest.raises(RecordNotFoundError, match="generation 3"):
        await archive.ask.get(uid, 3)


async def test_the_newest_object_of_a_name_is_returned(archive: SearchableArchive) -> None:
    old = audit_record(name="job", creationTimestamp=at(0))
    new = action_trace(name="job", creationTimestamp=at(1))
    newer = {**new, "metadata": {**new["metadata"], "generation": 2}}
    await archive.put(old, new, newer)
    assert ids([await archive.ask.get_by_name("payments", "job")]) == [identity_of(newer)]
    assert ids([await archive.ask.get_by_name("payments", "job", "auditrecord")]) == [identity_of(old)]
    with pytest.raises(RecordNotFoundError, match="payments/other"):
        await archive.ask.get_by_name("payments", "other")


@pytest.mark.oldest_postgres
async def test_a_name_is_found_within_the_scope_alone(archive: SearchableArchive) -> None:
    await archive.put(audit_record(name="job", creationTimestamp=at(0)))
    await archive.put(action_trace(name="trace", creationTimestamp=at(0)))
    for name in ("job", "trace"):
        for scope in (Scope("payments"), Scope("payments", START)):
            assert (await archive.ask.get_by_name("payments", name, scope=scope)).name == name
        for scope in (Scope("shop"), Scope("payments", START + timedelta(seconds=1))):
            with pytest.raises(RecordNotFoundError):
                await archive.ask.get_by_name("payments", name, scope=scope)


@pytest.mark.oldest_postgres
async def test_a_uid_of_two_namespaces_needs_a_namespace(archive: SearchableArchive) -> None:
    """A sender chooses the uid of its record, and can repeat that of another namespace."""
    first = action_trace(namespace="payments")
    second = {**first, "metadata": {**first["metadata"], "generation": 2}}
    uid = first["metadata"]["uid"]
    repeated = audit_record(namespace="shop", uid=uid)
    await archive.put(first, second, repeated)
    for question in (
        archive.ask.get(uid), archive.ask.get(uid, 1), archive.ask.history(uid),
    ):  # fmt: skip
        with pytest.raises(AmbiguousUidError, match=r"name the namespace .* payments or shop"):
            await question
    assert (await archive.ask.get(uid, 2)).namespace == "payments"
    for namespace, bodies in (("payments", [second, first]), ("shop", [repeated])):
        assert ids([await archive.ask.get(uid, scope=Scope(namespace))]) == [identity_of(bodies[0])]
        found = await archive.ask.history(uid, scope=Scope(namespace))
        assert ids(found) == [identity_of(body) for body in bodies]
    # The kind may say which one is meant, too.
    assert (await archive.ask.get(uid, kind="AuditRecord")).namespace == "shop"
    assert len(await archive.ask.history(uid, "ActionTrace")) == 2


async def test_a_record_of_another_kind_hides_none(archive: SearchableArchive) -> None:
    trace = action_trace()
    uid = trace["metadata"]["uid"]
    await archive.put(trace)
    await archive.put(audit_record(uid=uid))  # stored later, in the same namespace
    for kind in ("ActionTrace", "AuditRecord"):
        assert (await archive.ask.get(uid, kind=kind)).kind == kind
        assert [each.kind for each in await archive.ask.history(uid, kind)] == [kind]


async def test_unknown_and_malformed_uids(archive: SearchableArchive) -> None:
    with pytest.raises(RecordNotFoundError):
        await archive.ask.get(str(uuid.uuid4()))
    with pytest.raises(RecordNotFoundError):
        await archive.ask.history(str(uuid.uuid4()))
    with pytest.raises(InvalidQueryError, match="uid must be a UUID"):
        await archive.ask.get("no-uid")


@pytest.mark.oldest_postgres
async def test_pages_follow_each_other(archive: SearchableArchive) -> None:
    # Several a second and in several months, of both kinds; of a trace only the newest generation.
    bodies = [
        (audit_record if number % 2 else action_trace)(
            creationTimestamp=at(number // 3 * 24), resourceVersion=str(1000 + number)
        )
        for number in range(20)
    ]
    later = [
        {**body, "metadata": {**body["metadata"], "generation": 2}}
        for body in bodies
        if body["kind"] == "ActionTrace"
    ]
    await archive.put(*bodies, *later)
    newest = {body["metadata"]["uid"]: body for body in [*bodies, *later]}
    expected = [newest[body["metadata"]["uid"]] for body in reversed(bodies)]
    for limit in (1, 3, 19, 20, 1000):
        found = await all_pages(archive, Filter(), limit)
        assert ids(found) == [identity_of(body) for body in expected], limit


async def test_large_records_make_short_pages(archive: SearchableArchive) -> None:
    bodies = [audit_record({**AUDIT_SPEC, "message": "x" * 2000}, creationTimestamp=at(n)) for n in range(7)]
    await archive.put(*bodies)
    archive = archive.limited(max_bytes=5000)
    page = await archive.ask.list(limit=7)
    assert len(page.records) == 3
    assert ids(await all_pages(archive, Filter(), 7)) == [identity_of(body) for body in reversed(bodies)]


async def test_a_made_up_cursor_is_refused(archive: SearchableArchive) -> None:
    await archive.put(audit_record(), audit_record())
    cursor = (await archive.ask.list(limit=1)).cursor
    assert cursor is not None
    for wrong in ("", "x", cursor[:-4], cursor * 9, "WzEsMiwzXQ==", "W10=", "bnVsbA==", "\udc00", "é"):
        with pytest.raises(InvalidQueryError, match="cursor"):
            await archive.ask.list(cursor=wrong)


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        (Filter(kind="Pod"), "kind must be one of AuditRecord, ActionTrace, not 'Pod'"),
        (Filter(type="Remediaton"), "type must be one of Remediation, AIAnalysis, Workflow, Execution"),
        (Filter(type="scale_deployment"), "also set the kind to ActionTrace"),
        (Filter(phase="Done"), "phase must be one of Pending, Processing, Completed, Failed, Executing"),
        (Filter(via="mail"), "via must be one of cluster, api, not 'mail'"),
        (Filter(namespace=""), "namespace is empty"),
        (Filter(namespace="n" * 513), "namespace has 513 characters: the limit is 512"),
        (Filter(severity="a\0b"), "severity has a character that is not text"),
        (Filter(target_name="\udc00"), "target_name has a character that is not text"),
        (Filter(since=datetime(2026, 1, 1)), "since has no time zone"),  # noqa: DTZ001
        (Filter(since=START, until=START), "since .* must be before until"),
    ],
    ids=str,
)
async def test_a_wrong_filter_says_what_to_change(
    archive: SearchableArchive, filter_: Filter, message: str
) -> None:
    before = _count("list", "invalid")
    with pytest.raises(InvalidQueryError, match=message):
        await archive.ask.list(filter_)
    assert _count("list", "invalid") == before + 1


@pytest.mark.parametrize("limit", [-1, 0, 1001, 10**30])
async def test_a_wrong_limit_is_refused(archive: SearchableArchive, limit: int) -> None:
    with pytest.raises(InvalidQueryError, match="limit must be from 1 to 1,000"):
        await archive.ask.list(limit=limit)
    with pytest.raises(InvalidQueryError, match="limit must be from 1 to 1,000"):
        await archive.ask.timeline("x", limit=limit)


@pytest.mark.oldest_postgres
async def test_an_incident_reads_as_it_happened(archive: SearchableArchive) -> None:
    trace = action_trace(creationTimestamp=at(1))

    def generation(number: int, spec: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {**trace["metadata"], "generation": number}
        return {**trace, "metadata": metadata, "spec": {**TRACE_SPEC, **spec}}

    running = {"status": "Executing", "startTime": at(3)}
    ended = {**running, "status": "Completed", "endTime": at(5)}
    steps = [
        # Created when the analysis was over, but about something before the trace.
        audit_record({**AUDIT_SPEC, "startTime": at(0.5)}, creationTimestamp=at(2)),
        generation(1, {}),
        generation(
            2, {"parameters": {"replicas": 3}}
        ),  # nothing happened in it: it follows the one before it
        audit_record(creationTimestamp=at(2)),
        generation(3, {"execution": running}),
        audit_record({**AUDIT_SPEC, "startTime": at(4)}, creationTimestamp=at(6)),
        generation(4, {"execution": ended}),
        audit_record({**AUDIT_SPEC, "startTime": at(7)}, creationTimestamp=at(7)),
        generation(5, {"execution": ended, "effectiveness": {"score": 1, "assessedAt": at(9)}}),
    ]
    other = audit_record({**AUDIT_SPEC, "correlationID": "another"})
    await archive.put(*steps[::-1], other)
    found = await archive.ask.timeline(AUDIT_SPEC["correlationID"])
    assert ids(entry.record for entry in found.entries) == [identity_of(step) for step in steps]
    assert found.complete
    assert (await archive.ask.timeline("none")).entries == ()


async def test_questions_are_counted_and_timed(archive: SearchableArchive) -> None:
    body = audit_record()
    await archive.put(body)
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": lambda: archive.ask.get(body["metadata"]["uid"]),
        "list": archive.ask.list,
        "timeline": lambda: archive.ask.timeline("x"),
    }
    for operation, question in questions.items():
        before, timed = _count(operation, "success"), _timed(operation)
        await question()
        assert _count(operation, "success") == before + 1
        assert _timed(operation) == timed + 1
    before = _count("get", "success")
    with pytest.raises(RecordNotFoundError):
        await archive.ask.get(str(uuid.uuid4()))
    assert _count("get", "success") == before + 1


def _count(operation: str, status: str) -> float:
    labels = {"operation": operation, "status": status}
    return metrics.REGISTRY.get_sample_value("datastorage_query_total", labels) or 0.0


def _timed(operation: str) -> float:
    labels = {"operation": operation}
    return metrics.REGISTRY.get_sample_value("datastorage_query_duration_seconds_count", labels) or 0.0


_NAMESPACES = ("payments", "search", "Payments")
_TYPES = ("Remediation", "Execution")
_ACTION_TYPES = ("restart_pod", "Execution")
_PHASES = ("Completed", "Failed")
_HOURS = (0.0, 1.0, 30.0, 60.0)


def _object(
    number: int, namespace: str, type_: int, phase: str, hour: float, *, trace: bool
) -> dict[str, Any]:
    common = {"correlationID": f"rr-{number % 3}"}
    target = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": f"p{number % 2}"}
    metadata = {"namespace": namespace, "creationTimestamp": at(hour)}
    if trace:
        spec = {
            **common, "actionType": _ACTION_TYPES[type_], "targetRef": target,
            "execution": {"status": phase},
            "alert": {"name": "A", "severity": "critical", "fingerprint": f"f{number % 2}"},
        }  # fmt: skip
        return action_trace(spec, **metadata)
    spec = {
        **common, "type": _TYPES[type_], "action": "act", "phase": phase, "severity": "warning",
        "resourceRef": target, "alertFingerprint": f"f{number % 2}",
        "environment": ("production", "staging")[number // 2 % 2], "cluster": f"c{number % 4 // 3}",
        "actor": {"kind": "User", "name": f"u{number % 2}"},
    }  # fmt: skip
    return audit_record(spec, **metadata)


_OBJECTS = [
    _object(number, namespace, number % 2, phase, hour, trace=number % 3 == 0)
    for number, (namespace, phase, hour) in enumerate(
        (namespace, phase, hour) for namespace in _NAMESPACES for phase in _PHASES for hour in _HOURS
    )
]


def _number(body: Mapping[str, Any]) -> int:
    return [each["metadata"]["uid"] for each in _OBJECTS].index(body["metadata"]["uid"])


def _via(body: Mapping[str, Any]) -> Via:
    """Every fourth record came by the API."""
    return Via.API if _number(body) % 4 == 1 else Via.CLUSTER


def _recorded_by(body: Mapping[str, Any]) -> str | None:
    return f"robot-{_number(body) % 3}" if _via(body) is Via.API else None


def _meets(body: Mapping[str, Any], filter_: Filter) -> bool:
    """The filter once more, over the objects themselves."""
    spec, metadata = body["spec"], body["metadata"]
    trace = body["kind"] == "ActionTrace"
    target = spec["targetRef" if trace else "resourceRef"]
    alert = spec["alert"] if trace else {}
    actor = spec.get("actor", {})
    created = datetime.fromisoformat(metadata["creationTimestamp"])
    pairs = {
        "kind": body["kind"],
        "namespace": metadata["namespace"],
        "type": spec["actionType" if trace else "type"],
        "correlation_id": spec["correlationID"],
        "phase": spec["execution"]["status"] if trace else spec["phase"],
        "severity": alert["severity"] if trace else spec["severity"],
        "target_kind": target["kind"],
        "target_namespace": target["namespace"],
        "target_name": target["name"],
        "alert_fingerprint": alert["fingerprint"] if trace else spec["alertFingerprint"],
        "action": spec["actionType" if trace else "action"],
        "environment": spec.get("environment"),
        "cluster": spec.get("cluster"),
        "actor_kind": actor.get("kind"),
        "actor_name": actor.get("name"),
        "recorded_by": _recorded_by(body),
    }
    if filter_.type is not None and filter_.kind is None and trace:
        return False  # a type alone is that of an AuditRecord
    via = None if filter_.via is None else filter_.via.lower()
    return (
        all(getattr(filter_, name) in {None, value} for name, value in pairs.items())
        and via in {None, _via(body)}
        and (filter_.since is None or created >= filter_.since)
        and (filter_.until is None or created < filter_.until)
    )


@pytest.fixture(scope="module")
def filled(databases: TestDatabases) -> TestDatabase:
    """A few records of every sort; the test only reads."""

    async def fill() -> TestDatabase:
        database = await databases.clone()
        async with searchable(database) as archive:
            await Archive(archive.store.database).write(
                [
                    replace(record_of(body), via=_via(body), recorded_by=_recorded_by(body))
                    for body in _OBJECTS
                ]
            )
        return database

    return asyncio.run(fill())


def _maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(values)


_TIMES = [START + timedelta(hours=hour) for hour in (*_HOURS, 0.5, 100.0)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    filter_=st.builds(
        Filter,
        kind=_maybe("AuditRecord", "ActionTrace"),
        namespace=_maybe(*_NAMESPACES, "none"),
        type=_maybe("Execution", "Remediation"),
        correlation_id=_maybe("rr-0", "rr-1"),
        since=_maybe(*_TIMES),
        until=_maybe(*_TIMES),
        phase=_maybe(*_PHASES),
        severity=_maybe("critical", "warning"),
        target_kind=_maybe("Pod"),
        target_namespace=_maybe(*_NAMESPACES),
        target_name=_maybe("p0", "p1"),
        alert_fingerprint=_maybe("f0"),
        action=_maybe("act", "restart_pod"),
        environment=_maybe("production"),
        cluster=_maybe("c0", "c1"),
        actor_kind=_maybe("User", "Robot"),
        actor_name=_maybe("u0", "u1"),
        via=_maybe("cluster", "API"),
        recorded_by=_maybe("robot-1", "nobody"),
    ),
    limit=st.sampled_from([1, 4, 100]),
)
async def test_a_filter_finds_the_records_that_meet_it(
    filled: TestDatabase, filter_: Filter, limit: int
) -> None:
    if filter_.since is not None and filter_.until is not None and filter_.since >= filter_.until:
        return
    expected = {identity_of(body) for body in _OBJECTS if _meets(body, filter_)}
    async with searchable(filled) as archive:
        found = ids(await all_pages(archive, filter_, limit))
    assert len(found) == len(set(found))
    assert set(found) == expected


async def test_each_filter_alone_finds_the_records_that_meet_it(filled: TestDatabase) -> None:
    values: dict[str, Any] = {
        "kind": "ActionTrace", "namespace": "search", "type": "Execution", "correlation_id": "rr-1",
        "since": _TIMES[1], "until": _TIMES[2], "phase": "Failed", "severity": "warning",
        "target_kind": "Pod", "target_namespace": "search", "target_name": "p1", "alert_fingerprint": "f1",
        "action": "restart_pod", "environment": "staging", "cluster": "c1", "actor_kind": "User",
        "actor_name": "u1", "via": "api", "recorded_by": "robot-1",
    }  # fmt: skip
    assert set(values) == {field.name for field in fields(Filter)}
    async with searchable(filled) as archive:
        for name, value in values.items():
            filter_ = Filter(**{name: value})
            expected = {identity_of(body) for body in _OBJECTS if _meets(body, filter_)}
            assert expected, name
            assert set(ids((await archive.ask.list(filter_, limit=1000)).records)) == expected, name
