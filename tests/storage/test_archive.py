"""Storing records: each once, a batch as a whole or not at all, with the right columns."""

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datastorage.errors import WorkRefusedError
from datastorage.records.record import Record, Table
from datastorage.resources.reading.kindreading import SEARCH_VERSION
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of, utc
from harness.postgres import TestDatabase, connect


async def _row(owner: Any, record: Record) -> Any:
    return await owner.fetchrow(
        f"SELECT * FROM datastorage.{record.table} WHERE uid = $1 AND generation = $2",
        record.key.uid,
        record.key.generation,
    )


async def _count(owner: Any, table: str) -> int:
    count: int = await owner.fetchval(f"SELECT count(*) FROM datastorage.{table}")
    return count


@pytest.mark.oldest_postgres
async def test_columns_of_an_audit_record(archive: Archive, owner: Any) -> None:
    body = audit_record(
        {
            "type": "AIAnalysis", "action": "analyse", "phase": "Failed", "correlationID": "rr-7",
            "startTime": "2026-03-05T12:00:00+02:00", "endTime": "2026-03-05T10:00:01.5Z",
            "severity": "critical", "environment": "production", "cluster": "eu-1",
            "actor": {"kind": "Controller", "name": "ai-analysis"},
            "resourceRef": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "cart-0", "uid": "u-1",
            },
            "alertFingerprint": "f00d", "message": "containers were killed", "errorMessage": "no answer",
        }
    )  # fmt: skip
    record = record_of(body)
    await archive.write([record])
    row = dict(await _row(owner, record))
    assert str(row.pop("uid")) == body["metadata"]["uid"]
    assert datetime.now(UTC) - row.pop("stored_at") < timedelta(minutes=5)
    for kept in ("content", "content_hash"):
        assert row.pop(kept) == getattr(record, kept)
    assert row.pop("spec_hash") == record.key.spec_hash
    assert (row.pop("stored_order"), row.pop("diverged")) == (1, False)
    assert row.pop("search_version") == SEARCH_VERSION
    search = row.pop("search")
    for lexeme in ("analys", "contain", "kill", "answer", "cart", "pod", "shop"):
        assert f"'{lexeme}'" in search
    assert row == {
        "generation": 1, "created_at": utc("2026-03-05T10:20:30Z"), "namespace": "payments",
        "name": body["metadata"]["name"], "type": "AIAnalysis", "action": "analyse", "phase": "Failed",
        "correlation_id": "rr-7", "start_time": utc("2026-03-05T10:00:00Z"),
        "end_time": utc("2026-03-05T10:00:01.5Z"), "severity": "critical", "environment": "production",
        "cluster": "eu-1", "actor_kind": "Controller", "actor_name": "ai-analysis",
        "resource_api_version": "v1", "resource_kind": "Pod", "resource_namespace": "shop",
        "resource_name": "cart-0", "resource_uid": "u-1", "alert_fingerprint": "f00d",
        "resource_version": 100, "via": "cluster", "recorded_by": None,
        "happened_at": utc("2026-03-05T10:00:00Z"),
        "text_hash": record.text.hash if record.text is not None else b"",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("ImagePullBackOff", {"imagepullbackoff", "imag", "pull", "back"}),
        ("OOMKilled", {"oomkil", "oom", "kill"}),
        ("CPU is HIGH", {"cpu", "high"}),
        ("x" * 200 + "Z", {"x" * 200 + "z"}),
    ],
)
async def test_a_word_of_several_is_found_by_each(
    archive: Archive, owner: Any, message: str, found: set[str]
) -> None:
    record = record_of(audit_record({**AUDIT_SPEC, "action": "a", "message": message}))
    await archive.write([record])
    lexemes = await owner.fetchval("SELECT tsvector_to_array(search) FROM datastorage.audit_records")
    others = {"rr", "2026", "0042", "remedi", "complet"}  # of the other fields
    assert set(lexemes) == found | others


@pytest.mark.oldest_postgres
async def test_columns_of_an_action_trace(archive: Archive, owner: Any) -> None:
    body = action_trace(
        {
            **TRACE_SPEC,
            "alert": {"name": "HighLatency", "severity": "warning", "fingerprint": "beef"},
            "model": {"name": "m-1", "confidence": 0.75, "reasoning": "replicas were exhausted"},
            "execution": {
                "status": "Failed", "startTime": "2026-03-05T10:00:00Z", "endTime": "2026-03-05T10:01:00Z",
                "error": "quota reached",
            },
            "effectiveness": {"score": 1, "notes": "nothing improved", "assessedAt": "2026-03-05T11:00:00Z"},
        },
        generation=4,
    )  # fmt: skip
    record = record_of(body)
    await archive.write([record])
    row = dict(await _row(owner, record))
    search = row["search"]
    for lexeme in ("scaledeploy", "highlat", "exhaust", "quota", "improv", "api"):
        assert f"'{lexeme}'" in search
    for checked in (
        "uid",
        "content",
        "content_hash",
        "stored_at",
        "search",
        "search_version",
        "spec_hash",
        "stored_order",
        "diverged",
    ):
        del row[checked]
    assert row == {
        "generation": 4, "created_at": utc("2026-03-05T10:20:30Z"), "namespace": "payments",
        "name": body["metadata"]["name"], "final": True, "correlation_id": "rr-2026-0042",
        "action_type": "ScaleDeployment", "target_api_version": "apps/v1", "target_kind": "Deployment",
        "target_namespace": "payments", "target_name": "api", "alert_name": "HighLatency",
        "alert_severity": "warning", "alert_fingerprint": "beef", "model_name": "m-1",
        "model_confidence": 0.75, "execution_status": "Failed", "start_time": utc("2026-03-05T10:00:00Z"),
        "end_time": utc("2026-03-05T10:01:00Z"), "effectiveness_score": 1.0,
        "assessed_at": utc("2026-03-05T11:00:00Z"), "happened_at": utc("2026-03-05T11:00:00Z"),
        "resource_version": 100, "via": "cluster", "recorded_by": None,
        "text_hash": record.text.hash if record.text is not None else b"",
    }  # fmt: skip


async def test_a_value_without_exact_form_is_null_or_cut_in_its_column(archive: Archive, owner: Any) -> None:
    body = audit_record(
        {
            **AUDIT_SPEC, "startTime": "2016-12-31T23:59:60Z", "action": "a\0b", "severity": "\ud800!",
            "environment": "e" * 2000,
        }
    )  # fmt: skip
    record = record_of(body)
    await archive.write([record])
    row = await _row(owner, record)
    assert row["start_time"] is None
    assert row["action"] == "a\ufffdb"
    assert row["severity"] == "?!"
    assert row["environment"] == "e" * 512


async def test_the_content_is_the_object_without_what_the_cluster_keeps_for_itself(
    archive: Archive, owner: Any
) -> None:
    body = audit_record(
        labels={"team": "shop"},
        annotations={"note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        ownerReferences=[{"kind": "RemediationRequest", "name": "rr", "uid": "1"}],
    )
    body["status"] = {"phase": "Pending"}
    record = record_of(body)
    await archive.write([record])
    kept = json.loads((await _row(owner, record))["content"])
    metadata = body["metadata"]
    assert kept == {
        "apiVersion": "datastorage.kubernaut.io/v1alpha1",
        "kind": "AuditRecord",
        "metadata": {
            "name": metadata["name"], "namespace": "payments", "uid": metadata["uid"], "generation": 1,
            "creationTimestamp": "2026-03-05T10:20:30Z", "labels": {"team": "shop"},
            "ownerReferences": metadata["ownerReferences"], "annotations": {"note": "kept"},
        },
        "spec": body["spec"],
    }  # fmt: skip


@pytest.mark.oldest_postgres
async def test_storing_again_keeps_the_first_content(archive: Archive, owner: Any) -> None:
    body = audit_record()
    first = record_of(body)
    (stored,) = await archive.write([first])
    other = record_of({**body, "metadata": {**body["metadata"], "labels": {"team": "payments"}}})
    assert other.content_hash != first.content_hash
    neighbour = record_of(audit_record())
    again = await archive.write([neighbour, other])
    assert again[1] == stored
    assert again[0].content_hash == neighbour.content_hash
    assert (await _row(owner, first))["content"] == first.content
    assert await _count(owner, "audit_records") == 2


async def test_the_answer_is_what_the_table_holds(archive: Archive, owner: Any) -> None:
    records = [record_of(audit_record()), record_of(action_trace()), record_of(audit_record())]
    for record, stored in zip(records, await archive.write(records), strict=True):
        row = await _row(owner, record)
        assert (stored.content_hash, stored.stored_at) == (row["content_hash"], row["stored_at"])


async def test_each_generation_is_a_row(archive: Archive, owner: Any) -> None:
    body = action_trace()
    generations = [
        record_of({**body, "metadata": {**body["metadata"], "generation": generation}})
        for generation in (1, 2, 3)
    ]
    await archive.write(generations[:2])
    await archive.write(generations[1:])
    assert await _count(owner, "action_traces") == 3


@pytest.mark.oldest_postgres
async def test_racing_stores_of_the_same_records_agree(archive: Archive, owner: Any) -> None:
    records = [record_of(audit_record()) for _ in range(50)]
    answers = await asyncio.gather(archive.write(records), archive.write(records), archive.write(records))
    assert answers[0] == answers[1] == answers[2]
    assert await _count(owner, "audit_records") == 50


async def test_a_batch_of_both_tables_is_one_transaction(archive: Archive, owner: Any) -> None:
    await archive.write([record_of(audit_record())])
    await owner.execute(
        "ALTER TABLE datastorage.action_traces ADD CONSTRAINT refuse CHECK (name <> 'refused')"
    )
    records = [record_of(audit_record()), record_of(action_trace(name="refused"))]
    with pytest.raises(WorkRefusedError):
        await archive.write(records)
    assert await _count(owner, "audit_records") == 1
    records[1] = record_of(action_trace())
    await archive.write(records)
    # now() is the transaction's time: one transaction, one time.
    times = await owner.fetch(
        "SELECT stored_at FROM datastorage.audit_records "
        "UNION SELECT stored_at FROM datastorage.action_traces"
    )
    assert len(times) == 2


async def test_find_answers_only_what_is_there(archive: Archive) -> None:
    record, absent = record_of(audit_record()), record_of(audit_record())
    (stored,) = await archive.write([record])
    key = record.key
    others = [replace(key, generation=2), replace(key, spec_hash=absent.key.spec_hash[::-1])]
    found = await archive.find(Table.AUDIT_RECORDS, [key, absent.key, *others])
    assert found == {key: stored}
    assert await archive.find(Table.ACTION_TRACES, [key]) == {}
    assert await archive.find(Table.AUDIT_RECORDS, []) == {}


async def test_another_content_of_a_stored_generation_is_kept_beside_it(archive: Archive, owner: Any) -> None:
    """A cluster was restored from a backup: the same generation comes again and says something else."""
    for make, spec, table in (
        (audit_record, AUDIT_SPEC, "audit_records"),
        (action_trace, TRACE_SPEC, "action_traces"),
    ):
        first = make(spec, uid=str(uuid.uuid4()), generation=1)
        second = {**first, "spec": {**spec, "correlationID": "another history"}}
        [stored] = await archive.write([record_of(first)])
        assert (stored.is_new, stored.diverged) == (True, False)
        beside, fresh = await archive.write([record_of(second), record_of(make())])
        assert (beside.is_new, beside.diverged) == (True, True)
        assert (fresh.is_new, fresh.diverged) == (True, False)
        assert beside.content_hash == record_of(second).content_hash != stored.content_hash
        # Whichever of them comes again, the archive answers with its own row.
        again = await archive.write([record_of(first), record_of(second)])
        assert [(row.is_new, row.diverged) for row in again] == [(False, False), (False, True)]
        assert [row.content_hash for row in again] == [stored.content_hash, beside.content_hash]
        uid = first["metadata"]["uid"]
        rows = await owner.fetch(f"SELECT content FROM datastorage.{table} WHERE uid = $1", uid)
        assert {row["content"] for row in rows} == {record_of(first).content, record_of(second).content}


@pytest.mark.parametrize(("make", "spec"), [(audit_record, AUDIT_SPEC), (action_trace, TRACE_SPEC)])
async def test_of_two_contents_of_a_generation_in_one_batch_the_later_one_is_diverged(
    archive: Archive, make: Callable[[dict[str, Any]], dict[str, Any]], spec: dict[str, Any]
) -> None:
    first, other = make(spec), make(spec)
    second, third = ({**first, "spec": {**spec, "correlationID": f"history {n}"}} for n in (2, 3))
    # Another generation of the object, and the first content again, are nothing new.
    later = {**first, "metadata": {**first["metadata"], "generation": 2}}
    batch = [record_of(body) for body in (first, second, other, first, later, third)]
    stored = await archive.write(batch)
    assert [row.diverged for row in stored] == [False, True, False, False, False, True]
    assert [row.is_new for row in stored] == [True] * 6
    again = await archive.write(batch)
    assert [row.diverged for row in again] == [False, True, False, False, False, True]
    assert [row.is_new for row in again] == [False] * 6
    assert [row.content_hash for row in again] == [record.content_hash for record in batch]


async def test_of_a_batch_with_two_contents_of_a_generation_all_are_stored_or_none(
    archive: Archive, owner: Any
) -> None:
    await owner.execute(
        "ALTER TABLE datastorage.audit_records ADD CONSTRAINT theirs CHECK (correlation_id <> 'no')"
    )
    first = audit_record()
    second = {**first, "spec": {**first["spec"], "correlationID": "no"}}
    with pytest.raises(WorkRefusedError, match="theirs"):
        await archive.write([record_of(first), record_of(second)])
    assert await _count(owner, "audit_records") == 0


async def test_of_one_key_twice_in_a_batch_the_first_content_is_kept(archive: Archive, owner: Any) -> None:
    body = audit_record(labels={"n": "1"})
    again = {**body, "metadata": {**body["metadata"], "labels": {"n": "2"}}}
    first, second, other = record_of(body), record_of(again), record_of(audit_record())
    stored = await archive.write([first, second, other])
    assert [row.content_hash for row in stored] == [first.content_hash] * 2 + [other.content_hash]
    assert [row.is_new for row in stored] == [True] * 3
    assert (await _row(owner, first))["content_hash"] == first.content_hash


async def test_a_batch_of_new_repeated_and_diverged_rows_says_which_is_which(archive: Archive) -> None:
    trace = action_trace()
    other = {**trace, "spec": {**trace["spec"], "actionType": "RestartPod"}}
    known, first, diverged = record_of(audit_record()), record_of(trace), record_of(other)
    [before, _] = await archive.write([known, first])
    stored = await archive.write([known, diverged, record_of(audit_record())])
    assert [(row.is_new, row.diverged) for row in stored] == [(False, False), (True, True), (True, False)]
    assert stored[0] == before
    # The repeat stays marked, and is distinguished from a new row.
    [again] = await archive.write([diverged])
    assert (again.is_new, again.diverged) == (False, True)


async def test_what_changes_without_a_generation_makes_no_second_row(archive: Archive, owner: Any) -> None:
    body = audit_record()
    [stored] = await archive.write([record_of(body)])
    owner_of_it = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": str(uuid.uuid4())}
    for change in (
        {"labels": {"spec": "},", "team": "payments"}},
        {"annotations": {"spec": '},"spec":{"type":"forged"}', "note": "x"}},
        {"ownerReferences": [owner_of_it]},
        {"generation": 2, "deletionTimestamp": "2026-03-05T11:00:00Z", "finalizers": ["example.com/x"]},
    ):
        [again] = await archive.write([record_of({**body, "metadata": {**body["metadata"], **change}})])
        assert (again.is_new, again.diverged, again.content_hash) == (False, False, stored.content_hash)
    assert await _count(owner, "audit_records") == 1


async def test_a_commit_survives_the_end_of_its_connection(cloned: TestDatabase, archive: Archive) -> None:
    """The answer comes after the commit: another session sees the row, and it stays."""
    record = record_of(audit_record())
    await archive.write([record])
    other = await connect(cloned.service_url)
    assert await _row(other, record) is not None
    assert await other.fetchval("SHOW synchronous_commit") == "on"
    await other.close()
