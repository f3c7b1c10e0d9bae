"""Contents read from PostgreSQL equal those that were stored, byte for byte."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastorage.metrics import REGISTRY
from datastorage.records.canonical import canonical_bytes
from datastorage.records.record import Record
from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, TRACE_SPEC, action_trace, audit_record, record_of
from harness.postgres import TestDatabase
from harness.strategies import action_trace_specs, audit_record_specs, json_values

_shared_database = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def cloned(common: TestDatabase) -> TestDatabase:
    """These tests only add rows."""
    return common


async def _assert_exact(owner: Any, body: dict[str, Any], record: Record) -> None:
    row = await owner.fetchrow(
        "SELECT content, content_hash, sha256(content) AS counted, spec_hash "
        f"FROM datastorage.{record.table} WHERE uid = $1",
        record.key.uid,
    )
    content = row["content"]
    assert content == record.content
    kept = json.loads(content)
    assert kept["spec"] == body["spec"]
    # Equality in Python is not enough: 1 == 1.0 == True. The canonical form distinguishes them.
    assert canonical_bytes(kept["spec"]) == canonical_bytes(body["spec"])
    assert row["content_hash"] == row["counted"] == hashlib.sha256(content).digest()
    # The server cuts the spec out of the content, whatever labels and annotations precede it.
    assert row["spec_hash"] == record.key.spec_hash == hashlib.sha256(canonical_bytes(body["spec"])).digest()


@_shared_database
@given(spec=audit_record_specs())
async def test_an_audit_record_comes_back_as_it_went_in(
    archive: Archive, owner: Any, spec: dict[str, Any]
) -> None:
    body = audit_record(spec)
    record = record_of(body)
    await archive.write([record])
    await _assert_exact(owner, body, record)


@_shared_database
@given(spec=action_trace_specs())
async def test_an_action_trace_comes_back_as_it_went_in(
    archive: Archive, owner: Any, spec: dict[str, Any]
) -> None:
    body = action_trace(spec)
    record = record_of(body)
    await archive.write([record])
    await _assert_exact(owner, body, record)


@_shared_database
@given(details=json_values(), text=st.text(st.characters(categories=["Cs", "L", "Cc"])))
async def test_any_json_and_unpaired_surrogates_come_back(
    archive: Archive, owner: Any, details: Any, text: str
) -> None:
    # A JSON parser has made one character of two surrogates that form a pair.
    message = json.loads(json.dumps(text))
    body = audit_record({**AUDIT_SPEC, "details": details, "message": message, "action": message})
    record = record_of(body)
    await archive.write([record])
    await _assert_exact(owner, body, record)


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a\0b", id="NUL"),
        pytest.param("\ud800 \udfff x", id="unpaired surrogates"),
        pytest.param([2**63 - 1, -(2**63), 9007199254740993, 2**64 - 1], id="64-bit integers"),
        pytest.param([0.1, 1e308, 5e-324, -0.0, 1.0, 1], id="floats"),
        pytest.param("\U0001f9e8\u2028\u0085\ufeff", id="odd characters"),
        pytest.param({"\0": 1, "": 2, "\ud800": 3}, id="odd keys"),
        pytest.param(_nested(150), id="deep"),
        pytest.param("x" * 1_500_000, id="1.5 MB"),
        pytest.param("\0" * 250_000, id="1.5 MB of escapes"),
    ],
)
@pytest.mark.oldest_postgres
async def test_bad_input_is_kept_exactly(archive: Archive, owner: Any, value: Any) -> None:
    for body in (
        audit_record({**AUDIT_SPEC, "details": value, "message": value}),
        action_trace({**TRACE_SPEC, "parameters": {"value": value}}),
    ):
        record = record_of(body)
        await archive.write([record])
        await _assert_exact(owner, body, record)


_ODD_INDEX_VALUES: list[tuple[str, Any]] = [
    ("startTime", "2016-12-31T23:59:60Z"),
    ("startTime", "0000-01-01T00:00:00Z"),
    ("startTime", "0001-01-01T00:00:00+14:00"),
    ("endTime", "9999-12-31T23:59:59.999999-14:00"),
    ("endTime", "9999-12-31T23:59:59.999999Z"),
    ("startTime", "0001-01-01T00:00:00Z"),
    ("startTime", "2026-01-01T00:00:00"),
    ("startTime", "2026-01-01T00:00:00.123456789Z"),
    ("startTime", "yesterday"),
    ("startTime", 5),
    ("correlationID", "é" * 1_000_000),
    ("correlationID", "\0" * 255),
    ("correlationID", "\ud800" * 255),
    ("correlationID", ["no", "text"]),
    ("message", "word " * 300_000),
    ("message", " ".join(f"w{n}" for n in range(200_000))),
    ("message", "-".join(["\U0001d4d0\U0001d4d1"] * 100_000)),
    ("message", "x" * 1_400_000),
    ("actor", "no object"),
    ("resourceRef", {"kind": "\U0001f9e8" * 3000, "namespace": "\U0001f9e8" * 3000, "name": "n" * 9000}),
]


@pytest.mark.parametrize(("field", "value"), _ODD_INDEX_VALUES, ids=range(len(_ODD_INDEX_VALUES)))
async def test_a_value_that_no_column_can_hold_costs_no_record(
    archive: Archive, owner: Any, field: str, value: Any
) -> None:
    body = audit_record({**AUDIT_SPEC, field: value})
    record = record_of(body)
    await archive.write([record])
    await _assert_exact(owner, body, record)


async def test_a_time_that_was_never_set_has_no_column_and_is_no_fault(archive: Archive, owner: Any) -> None:
    """Go writes these texts for the zero of its time.Time, in UTC and in a local zone."""
    zero, local = "0001-01-01T00:00:00Z", "0001-01-01T00:53:28+00:53"
    bodies = [
        audit_record({**AUDIT_SPEC, "startTime": zero, "endTime": local}),
        action_trace(
            {**TRACE_SPEC, "execution": {"status": "Completed", "startTime": local, "endTime": zero},
             "effectiveness": {"dueTime": zero, "assessedAt": zero}}
        ),
    ]  # fmt: skip
    before = [_out_of_range(field) for field in ("startTime", "endTime", "assessedAt")]
    records = [record_of(body) for body in bodies]
    assert [_out_of_range(field) for field in ("startTime", "endTime", "assessedAt")] == before
    await archive.write(records)
    for body, record in zip(bodies, records, strict=True):
        await _assert_exact(owner, body, record)
        row = await owner.fetchrow(
            f"SELECT * FROM datastorage.{record.table} WHERE uid = $1", body["metadata"]["uid"]
        )
        times = {"start_time", "end_time", "assessed_at"} & set(row.keys())
        assert [row[column] for column in times] == [None] * len(times)
        assert row["happened_at"] == row["created_at"]


def _out_of_range(field: str) -> float:
    value = REGISTRY.get_sample_value(
        "datastorage_validation_failures_total", {"field": field, "reason": "time_out_of_range"}
    )
    return value or 0.0


@pytest.mark.parametrize("pattern", ["~/", "a_", "a-1.", "/", "x@y.", "1e"])
async def test_no_text_is_slow_to_index(database: Database, pattern: str) -> None:
    """PostgreSQL's parser takes quadratic time for some patterns. None of them reaches it."""
    text = pattern * (16_384 // len(pattern))
    trace = action_trace(
        {**TRACE_SPEC, "model": {"reasoning": text}, "execution": {"status": "Failed", "error": text}}
    )
    async with database.connection() as connection:
        await connection.execute("SET statement_timeout = '10s'")
    await Archive(database).write([record_of(trace)])
    search = record_of(trace).index[-1]
    assert not set(search) & set("~/_-.@")
