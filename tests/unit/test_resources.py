"""The custom resources: when an object is final, which status is written, which specs users may write."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.records.reasons import Reason
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.crd import crd
from datastorage.resources.kinds import (
    ACTION_TRACE,
    AUDIT_RECORD,
    ENDED,
    KINDS,
    ExecutionStatus,
    Phase,
    ResourceKind,
)
from datastorage.resources.models.action_trace import ActionTraceSpec
from datastorage.resources.models.audit_record import AuditRecordSpec
from datastorage.resources.reading.registry import reading_of
from datastorage.resources.status import Status, recording_status, rejected_status, stored_status
from harness.strategies import action_trace_specs, audit_record_specs, json_values, times
from tests.support.structural import violations

GO_ZERO = "0001-01-01T00:00:00Z"
NOW = datetime(2026, 3, 1, 10, 0, 0, 1, UTC)
LATER = datetime(2026, 3, 1, 11, tzinfo=UTC)
HASH = bytes(32)

EMBEDDED = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, "", model="wordllama/l2_supercat_256", at=NOW)
PENDING = VectorWrite(
    WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "does not answer", model="openai/small"
)
IN_BACKGROUND = VectorWrite(WriteState.PENDING, Reason.QUEUED, model="onnx/small@0123")
FAILED = VectorWrite(WriteState.FAILED, Reason.EMBEDDING_REFUSED, "not finite", model="openai/small")


def stored(vector: VectorWrite, *, held: bool = False) -> dict[str, Any]:
    return stored_status(
        uid="u", generation=3, stored_at=NOW, content_hash=HASH, expires_at=LATER, vector=vector, held=held
    )


STORED, HELD, DEGRADED, QUEUED, UNEMBEDDED = (
    stored(EMBEDDED),
    stored(EMBEDDED, held=True),
    stored(PENDING),
    stored(IN_BACKGROUND),
    stored(FAILED),
)
RECORDING = recording_status(uid="u", generation=3, stored_at=NOW, content_hash=HASH, vector=PENDING)
REJECTED = rejected_status(uid="u", generation=3, at=NOW, message="too deep")


def field_schema(kind: ResourceKind, name: str) -> dict[str, Any]:
    root = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return dict(root["properties"][name])


def without_nulls(status: dict[str, Any]) -> dict[str, Any]:
    """Return what a merge patch of the status leaves of it."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in status.items()
        if value is not None
    }


def test_an_audit_record_is_always_final() -> None:
    assert reading_of(AUDIT_RECORD).is_final({"phase": "Pending"})
    assert reading_of(AUDIT_RECORD).is_final({})


@pytest.mark.parametrize("status", list(ExecutionStatus))
def test_a_trace_is_final_when_its_execution_has_ended(status: ExecutionStatus) -> None:
    ended = status in {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.ROLLED_BACK}
    assert reading_of(ACTION_TRACE).is_final({"execution": {"status": status.value}}) is ended
    assert (status in ENDED) is ended


@pytest.mark.parametrize(
    ("effectiveness", "final"),
    [
        ({}, True),
        ({"score": 0.5}, True),
        ({"dueTime": LATER}, False),
        ({"dueTime": LATER, "score": 0.5}, False),
        ({"dueTime": LATER, "assessedAt": LATER}, True),
        ({"assessedAt": LATER}, True),
        ({"dueTime": None}, True),
        (None, True),
        ({"dueTime": LATER, "assessedAt": None}, False),
        ({"dueTime": LATER, "assessedAt": GO_ZERO}, False),
        ({"dueTime": LATER, "assessedAt": "0001-01-01T00:00:00.000+00:00"}, False),
        ({"dueTime": GO_ZERO}, True),
        ({"dueTime": GO_ZERO, "assessedAt": GO_ZERO}, True),
        ({"dueTime": "1970-01-01T00:00:00Z"}, False),
        ({"dueTime": LATER, "assessedAt": "1970-01-01T00:00:00Z"}, True),
    ],
)
def test_an_outstanding_assessment_keeps_a_trace_open(
    *, effectiveness: dict[str, Any] | None, final: bool
) -> None:
    execution = {"status": "Completed"}
    assert (
        reading_of(ACTION_TRACE).is_final({"execution": execution, "effectiveness": effectiveness}) is final
    )


def test_a_trace_without_execution_is_not_final() -> None:
    assert not reading_of(ACTION_TRACE).is_final({})
    assert not reading_of(ACTION_TRACE).is_final(
        {"effectiveness": {"dueTime": "2026-03-01T10:00:00Z", "assessedAt": "2026-03-01T10:00:00Z"}}
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize(
    "status",
    [STORED, HELD, DEGRADED, QUEUED, UNEMBEDDED, RECORDING, REJECTED],
    ids=["stored", "held", "degraded", "queued", "unembedded", "recording", "rejected"],
)
def test_statuses_fit_model_and_schema(kind: ResourceKind, status: dict[str, Any]) -> None:
    Status.model_validate(status)
    assert list(violations(field_schema(kind, "status"), without_nulls(status))) == []


@pytest.mark.parametrize(
    ("status", "phase", "is_stored", "is_embedded", "vector"),
    [
        (STORED, Phase.STORED, "True", "True", "Written"),
        (DEGRADED, Phase.DEGRADED, "True", "False", "Pending"),
        (QUEUED, Phase.STORED, "True", "False", "Pending"),
        (UNEMBEDDED, Phase.STORED, "True", "False", "Failed"),
        (RECORDING, Phase.RECORDING, "False", "False", "Pending"),
        (REJECTED, Phase.REJECTED, "False", "False", "Skipped"),
    ],
)
def test_statuses_say_the_same_throughout(
    status: dict[str, Any], phase: Phase, is_stored: str, is_embedded: str, vector: str
) -> None:
    conditions = {each["type"]: each for each in status["conditions"]}
    assert (status["phase"], status["recordID"], status["observedGeneration"]) == (phase, "u", 3)
    assert {kind: each["status"] for kind, each in conditions.items()} == {
        "Stored": is_stored, "Embedded": is_embedded,
    }  # fmt: skip
    assert {each["observedGeneration"] for each in conditions.values()} == {3}
    assert status["writes"]["vector"]["state"] == vector


def test_a_pending_vector_has_a_reason() -> None:
    assert "does not answer" in DEGRADED["message"]
    assert DEGRADED["conditions"][1]["reason"] == "EmbedderUnavailable"
    assert DEGRADED["conditions"][1]["message"] == "does not answer"
    assert DEGRADED["writes"]["vector"] == {"state": "Pending", "at": None, "model": "openai/small"}


def test_a_vector_of_the_background_is_no_trouble() -> None:
    assert QUEUED["message"].startswith("stored, its vector is made in the background; leaves the cluster")
    assert QUEUED["conditions"][1]["reason"] == "Queued"
    assert QUEUED["conditions"][1]["message"] == "its vector is made in the background"


def test_stored_status_says_when_the_object_is_deleted() -> None:
    assert STORED["expiresAt"] == "2026-03-01T11:00:00.000Z"
    assert "2026-03-01T11:00:00.000Z" in STORED["message"]
    assert "legal hold" in HELD["message"]


def test_stored_status_is_small() -> None:
    """It is written once for every record and lives in etcd."""
    assert len(json.dumps(STORED, separators=(",", ":"))) < 800


def test_a_rejection_clears_what_an_earlier_generation_left() -> None:
    assert {key for key, value in REJECTED.items() if value is None} == {
        "storedAt",
        "contentHash",
        "expiresAt",
    }
    assert RECORDING.keys() <= REJECTED.keys()


def test_a_rejection_cuts_an_endless_message() -> None:
    status = rejected_status(uid="u", generation=1, at=NOW, message="x" * 100_000)
    assert list(violations(field_schema(AUDIT_RECORD, "status"), without_nulls(status))) == []


@given(audit_record_specs())
def test_generated_audit_records_fit_the_schema(spec: dict[str, Any]) -> None:
    assert list(violations(field_schema(AUDIT_RECORD, "spec"), spec)) == []


@given(action_trace_specs())
def test_generated_traces_fit_the_schema(spec: dict[str, Any]) -> None:
    assert list(violations(field_schema(ACTION_TRACE, "spec"), spec)) == []


@given(json_values())
def test_generated_json_is_json(value: Any) -> None:
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@given(st.lists(times(), min_size=2, max_size=2))
def test_generated_times_can_be_compared(pair: list[str]) -> None:
    first, second = map(datetime.fromisoformat, pair)
    assert (first <= second) or (second <= first)


def test_models_refuse_unknown_fields() -> None:
    """An example with a misspelt field is noticed wherever the models are used."""
    for model in (AuditRecordSpec, ActionTraceSpec):
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["frozen"]
