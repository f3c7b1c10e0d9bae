"""Unusual and hostile input is stored exactly or refused with a reason; it is not lost and delays nothing."""

import asyncio
import json
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage.records.canonical import canonical_bytes
from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from e2e.workbench import Workbench
from harness.archive import fetch, rejected, rows, uids
from harness.bulk import BulkClient, RequestError, gather_bounded
from harness.manifests import action_trace, audit_record
from harness.polling import until
from harness.strategies import audit_record_specs

# The API server takes objects of about 1.5 MB; so near the limit there is no room for a status.
NEARLY_TOO_LARGE = 1_571_000
LARGE_SECONDS = 240  # 22 MB of JSON to store or to sweep over; some 10 s on an idle machine
MEMORY_MIB = 400  # the pod has 512
_COUNT_TRACES = "SELECT count(*) FROM datastorage.action_traces WHERE namespace = $1"


_NO_POISON = """
    CREATE FUNCTION datastorage.no_poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no poison' USING ERRCODE = 'datetime_field_overflow'; END $$;
    CREATE TRIGGER no_poison BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW WHEN (NEW.action = 'poison') EXECUTE FUNCTION datastorage.no_poison();
"""
_SLOW = """
    CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(3600); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW WHEN (NEW.action = 'sleep') EXECUTE FUNCTION public.slow();
"""


def _limit(database_url: str, setting: str) -> str:
    parts = urlsplit(database_url)
    return f"ALTER ROLE {parts.username} IN DATABASE {parts.path[1:]} {setting}"


async def _stored_spec(workbench: Workbench, name: str) -> Any:
    found = [row for row in await rows(workbench.database_url, workbench.namespace) if row["name"] == name]
    return found[0] if found else None


@pytest.mark.parametrize(
    "details",
    [
        {"nul": "a\u0000b", "\u0000": 1},
        {"lone": "\ud800", "pair": "\ud83d\ude00", "text": "äöü 漢字 🚀"},
        {
            "max": 2**63 - 1,
            "min": -(2**63),
            "beyond double": 2**53 + 1,
            "zero": 0,
            "float": 0.1,
            "tiny": 5e-324,
        },
        {"empty": {}, "list": [], "null": None, "nested": [[[{"a": [None]}]]]},
        ["not", "an", "object"],
        "a string",
        False,
    ],
    ids=["nul", "surrogates", "integers", "empty", "list", "string", "false"],
)
@pytest.mark.shared_operator
async def test_details_are_stored_exactly(workbench: Workbench, client: BulkClient, details: Any) -> None:
    workbench.running_operator()
    created = await client.create(AUDIT_RECORD, workbench.namespace, audit_record("odd", details=details))
    row = await until(lambda: _stored_spec(workbench, "odd"), what="the row")
    content = json.loads(row["content"])
    assert content["spec"] == created["spec"]
    assert row["content"] == canonical_bytes(content)


async def test_deep_and_huge_objects_hold_nothing_up(workbench: Workbench, client: BulkClient) -> None:
    """The deepest JSON that the API server takes, and the largest object, among ordinary ones."""
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=3)
    namespace = workbench.namespace
    bodies = {
        "before": audit_record("before"),
        "huge": audit_record("huge", details="x" * NEARLY_TOO_LARGE),
        "after": audit_record("after"),
    }
    expected = {name: await client.create(AUDIT_RECORD, namespace, body) for name, body in bodies.items()}
    depth = 9_900
    text = json.dumps(audit_record("deep", details="DEEP")).replace('"DEEP"', "[" * depth + "]" * depth)
    file = workbench.directory / "deep.json"
    file.write_text(text)
    workbench.cluster.kubectl("create", "-n", namespace, "--validate=false", "-f", str(file))

    async def all_rows() -> Any:
        found = {row["name"]: row for row in await rows(workbench.database_url, namespace)}
        return found if len(found) == 4 else None

    found = await until(all_rows, what="four rows")
    for name, body in expected.items():
        assert json.loads(found[name]["content"])["spec"] == body["spec"]
    assert b"[" * depth + b"]" * depth in found["deep"]["content"]

    async def empty() -> bool:
        return not await client.names(AUDIT_RECORD, namespace)

    await until(empty, what="all are cleared, also the one without room for a status")
    operator.check()


async def test_the_api_server_refuses_invalid_and_too_large_objects(
    workbench: Workbench, client: BulkClient
) -> None:
    backwards = audit_record("b", startTime="2026-01-01T00:00:05Z", endTime="2026-01-01T00:00:00Z")
    too_large = audit_record("l", details="x" * (NEARLY_TOO_LARGE * 2))
    for body, expected in ((backwards, "endTime"), (too_large, "larger than max")):
        with pytest.raises(RequestError, match=expected):
            await client.create(AUDIT_RECORD, workbench.namespace, body)


@pytest.mark.shared_operator
async def test_times_far_off_are_stored_and_indexed_where_they_can_be(
    workbench: Workbench, client: BulkClient
) -> None:
    workbench.running_operator()
    times = {
        "ancient": "0001-01-02T00:00:00Z",
        "zero": "0000-01-01T00:00:00Z",
        "unset": "0001-01-01T00:00:00Z",
        "late": "9999-12-31T23:59:59Z",
    }
    for name, time in times.items():
        body = audit_record(name, startTime=time)
        del body["spec"]["endTime"]
        await client.create(AUDIT_RECORD, workbench.namespace, body)
    for name, time in times.items():
        row = await until(partial(_stored_spec, workbench, name), what=name)
        assert json.loads(row["content"])["spec"]["startTime"] == time
        assert (row["start_time"] is None) == (name in {"zero", "unset"})


async def test_unstorable_record_is_rejected_and_holds_nothing_up(
    workbench: Workbench, client: BulkClient
) -> None:
    """No input is known that PostgreSQL can't hold, so a trigger of the test refuses one record.

    The rejection is not final: once the cause is removed, the record is stored from its kept bytes.
    """
    await workbench.execute_as_owner(_NO_POISON)
    namespace = workbench.namespace
    for n in range(40):
        action = "poison" if n == 17 else "restart-pod"
        await client.create(AUDIT_RECORD, namespace, audit_record(f"r-{n}", action=action))
    workbench.start_operator(SWEEP_INTERVAL_SECONDS=5)

    async def settled() -> Any:
        bodies = await client.list(AUDIT_RECORD, namespace)
        phases = {body["metadata"]["name"]: body.get("status", {}).get("phase") for body in bodies}
        return phases if all(phases.values()) else None

    phases = await until(settled, what="all are settled")
    assert {name for name, phase in phases.items() if phase == "Rejected"} == {"r-17"}
    assert len(await rows(workbench.database_url, namespace)) == 39
    body = await client.get(AUDIT_RECORD, namespace, "r-17")
    assert body is not None
    assert "no poison" in body["status"]["message"]
    [letter] = await rejected(workbench.database_url, namespace)
    assert json.loads(letter["content"])["spec"] == body["spec"]
    assert str(letter["uid"]) == body["metadata"]["uid"]
    assert "r-17" in workbench.datastorage("rejected", "list")
    await workbench.execute_as_owner("DROP TRIGGER no_poison ON datastorage.audit_records")
    assert workbench.datastorage("rejected", "retry", body["metadata"]["uid"]) == "stored: 1\n"

    async def stored() -> bool:
        return (await settled() or {}).get("r-17") == "Stored"

    await until(stored, what="the record is Stored after all")
    [row] = [row for row in await rows(workbench.database_url, namespace) if row["name"] == "r-17"]
    assert (row["content"], row["content_hash"]) == (letter["content"], letter["content_hash"])


async def test_a_record_that_is_too_slow_waits_and_holds_nothing_up(
    workbench: Workbench, client: BulkClient
) -> None:
    """One record that alone exceeds statement_timeout does not hold up the others."""
    await workbench.execute_as_owner(_SLOW)
    await workbench.execute_as_owner(_limit(workbench.database_url, "SET statement_timeout = '300ms'"))
    namespace = workbench.namespace
    for n in range(60):
        action = "sleep" if n == 17 else "restart-pod"
        await client.create(AUDIT_RECORD, namespace, audit_record(f"r-{n}", action=action))
    operator = workbench.start_operator(SWEEP_INTERVAL_SECONDS=5)

    async def phases(wanted: str) -> set[str]:
        bodies = await client.list(AUDIT_RECORD, namespace)
        return {body["metadata"]["name"] for body in bodies if body.get("status", {}).get("phase") == wanted}

    async def all_but_one() -> bool:
        return await phases("Stored") == {f"r-{n}" for n in range(60)} - {"r-17"}

    await until(all_but_one, what="the others are Stored")
    await client.create(AUDIT_RECORD, namespace, audit_record("later"))

    async def later() -> bool:
        return "later" in await phases("Stored")

    await until(later, what="one that came later is Stored")

    async def counted() -> bool:
        return operator.metric('datastorage_waiting_records{place="memory"}') == 1

    await until(counted, what="the metric counts it")

    async def serves() -> bool:
        return operator.ready() and operator.metric('datastorage_dependency_up{dependency="postgres"}') == 1

    # On a busy machine a harmless statement may exceed the limit as well, and a moment later succeed.
    await until(serves, what="PostgreSQL is not taken for absent")
    await workbench.execute_as_owner("DROP TRIGGER slow ON datastorage.audit_records")

    async def all_there() -> bool:
        return len(await phases("Stored")) == 61

    await until(all_there, what="the slow one is Stored once nothing slows it down")


async def test_a_record_that_was_deleted_at_once_is_stored(workbench: Workbench, client: BulkClient) -> None:
    """Without the deletion guard a record may be gone a moment after its creation: its event still has it."""
    workbench.opt_out_of_the_guard()
    workbench.start_operator()
    accepted: list[str] = []

    async def create_and_delete(n: int) -> None:
        body = await client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"gone-{n}"))
        accepted.append(body["metadata"]["uid"])
        await client.delete(AUDIT_RECORD, workbench.namespace, f"gone-{n}")

    await gather_bounded([create_and_delete(n) for n in range(300)], 8)

    async def all_there() -> bool:
        return set(uids(await rows(workbench.database_url, workbench.namespace))) == set(accepted)

    await until(all_there, what="every deleted record has its row")


@pytest.mark.parametrize("who", ["user", "operator"])
@pytest.mark.timeout(600)
async def test_a_name_that_is_used_again_at_once_mixes_nothing_up(
    workbench: Workbench, client: BulkClient, who: str
) -> None:
    """A deleted object's successor of the same name is another record: 1,000 times, none lost or mixed up.

    Either the user deletes and creates again (with a status write on its way), or the operator
    deletes (ttl 0) and the user creates as soon as the name is free.
    """
    workbench.opt_out_of_the_guard()
    namespace = workbench.namespace
    workbench.start_operator(TTL_SECONDS_AFTER_STORED=0 if who == "operator" else 3600)
    accepted: dict[str, str] = {}

    async def cycle(name: str) -> None:
        for turn in range(50):
            message = f"{name} turn {turn}"
            body = await _create_when_free(client, namespace, audit_record(name, message=message))
            accepted[body["metadata"]["uid"]] = message
            if who == "user":
                await client.delete(AUDIT_RECORD, namespace, name)

    await asyncio.gather(*(cycle(f"again-{n}") for n in range(20)))

    async def all_there() -> bool:
        found = await rows(workbench.database_url, namespace)
        return {str(row["uid"]) for row in found} == set(accepted)

    await until(all_there, what="a row for each of the 1,000")
    for row in await rows(workbench.database_url, namespace):
        assert json.loads(row["content"])["spec"]["message"] == accepted[str(row["uid"])]
    assert len(accepted) == 1000


async def _create_when_free(client: BulkClient, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
    while True:
        try:
            return await client.create(AUDIT_RECORD, namespace, body)
        except RequestError as error:
            if error.status != 409:
                raise


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
@given(specs=st.lists(audit_record_specs(), min_size=20, max_size=40))
@pytest.mark.shared_operator
async def test_whatever_the_schema_allows_is_stored_exactly(
    workbench: Workbench, client: BulkClient, specs: list[dict[str, Any]]
) -> None:
    # The fixture serves all examples; only the first one starts the operator.
    workbench.running_operator()
    created = {}
    for spec in specs:
        body = {**audit_record(""), "metadata": {"generateName": "any-"}, "spec": spec}
        accepted = await client.create(AUDIT_RECORD, workbench.namespace, body)
        created[accepted["metadata"]["name"]] = accepted

    async def all_there() -> Any:
        found = {row["name"]: row for row in await rows(workbench.database_url, workbench.namespace)}
        return found if created.keys() <= found.keys() else None

    found = await until(all_there, what="a row for each")
    for name, body in created.items():
        content = json.loads(found[name]["content"])
        assert content["spec"] == body["spec"]
        assert content["metadata"]["uid"] == body["metadata"]["uid"]
        assert found[name]["content"] == canonical_bytes(content)


@pytest.mark.timeout(5 * LARGE_SECONDS)
async def test_large_objects_do_not_fill_the_memory(workbench: Workbench, client: BulkClient) -> None:
    """10 traces of 1.4 MB that grow to 24 times that when parsed: a page of them would take 340 MB.

    Records of that size come at the same time, through a watch and a sweep of their own.
    """
    namespace, count = workbench.namespace, 10
    empties: dict[str, Any] = {"a": [[] for _ in range(460_000)]}
    for n in range(count):
        body = action_trace(f"large-{n}", parameters=empties)
        await client.create(ACTION_TRACE, namespace, body, metadata_only=True)
        if n < count / 2:
            record = audit_record(f"large-{n}", details=empties)
            await client.create(AUDIT_RECORD, namespace, record, metadata_only=True)
    # A stop would wait for statuses that such objects have hardly any room for.
    operator = workbench.start_operator(wait=False, SHUTDOWN_SECONDS=1)
    operator.wait_ready(LARGE_SECONDS)

    async def all_there() -> bool:
        # The rows are counted, not read: reading 22 MB at each look would slow down storing them.
        return int((await fetch(workbench.database_url, _COUNT_TRACES, namespace))[0][0]) == count

    await until(all_there, seconds=LARGE_SECONDS, what="a row for each")
    assert len(await rows(workbench.database_url, namespace, Table.ACTION_TRACES)) == count
    assert operator.peak_memory_mib() < MEMORY_MIB
    # Every start and every sweep meets them again, since they are not final.
    operator.terminate()
    operator.start()
    operator.wait_ready(LARGE_SECONDS)

    async def swept() -> bool:
        # The first page, which would be the largest, and some after it. The metric of whole sweeps would not
        # do: each kind has sweeps of its own, and those over the other kind are soon over.
        return await asyncio.to_thread(operator.metric, "datastorage_sweep_objects_total") >= 4

    await until(swept, seconds=LARGE_SECONDS, what="a sweep over them")
    assert operator.peak_memory_mib() < MEMORY_MIB
