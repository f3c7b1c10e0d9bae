"""A record of a request: its identity, its claim, and what of the body it keeps."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datastorage.records.hashes import sha256
from datastorage.records.record import Claim, Record, Via
from datastorage.resources.reading import requestrecord
from datastorage.resources.reading.requestrecord import record_of_request, uuid7
from harness.objects import AUDIT_SPEC

UID = "5f0c2b1e-7a3d-4c55-9d0e-2f6c1b8a9e41"
NOW = datetime(2026, 3, 5, 10, 20, 30, 123456, tzinfo=UTC)


def made(
    spec: dict[str, Any] | None = None, *, key: str | None = None, by: str = "robot", **metadata: Any
) -> Record:
    body = {"metadata": {"namespace": "payments", **metadata}, "spec": spec or dict(AUDIT_SPEC)}
    return record_of_request(body, recorded_by=by, idempotency_key=key, now=NOW, with_text=True)


def kept(record: Record) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(record.content)["metadata"]
    return metadata


def test_a_uid_that_is_given_is_kept_in_its_canonical_spelling() -> None:
    for spelling in (UID, UID.upper()):
        record = made(uid=spelling)
        assert record.key.uid == kept(record)["uid"] == UID


def test_without_a_uid_each_request_makes_a_new_one() -> None:
    first, second = made(), made()
    assert first.key.uid != second.key.uid
    assert uuid.UUID(first.key.uid).version == 7


def test_a_new_uid_is_of_version_7_and_in_the_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = [1_700_000_000_000, 1_700_000_000_001, 1_800_000_000_000]
    uids = []
    for each in milliseconds:
        monkeypatch.setattr("time.time_ns", lambda each=each: each * 1_000_000 + 999_999)
        uids.append(uuid7())
    assert uids == sorted(uids)
    assert [uid.int >> 80 for uid in uids] == milliseconds
    assert {(uid.version, uid.variant) for uid in uids} == {(7, uuid.RFC_4122)}
    assert len({uuid7() for _ in range(1_000)}) == 1_000


def test_a_time_of_creation_is_never_that_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects have whole seconds: a client could otherwise send the key of one that it knows."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr(requestrecord, "datetime", Clock)
    clock = requestrecord._Clock()  # one of its own, because the module's never goes back
    assert [clock.now().microsecond for _ in range(3)] == [1, 2, 3]


def test_a_name_that_is_not_given_is_made_of_type_and_uid() -> None:
    assert made(name="step-1").name == "step-1"
    assert made(uid=UID).name == "remediation-2f6c1b8a9e41"
    for empty in ("", None):
        assert made(uid=UID, name=empty).name == "remediation-2f6c1b8a9e41"


def test_the_row_says_who_sent_it_how_and_when() -> None:
    record = made(by="system:serviceaccount:payments:robot\0")
    assert record.recorded_by == "system:serviceaccount:payments:robot\ufffd"
    assert (record.via, record.namespace, record.key.generation) == (Via.API, "payments", 1)
    assert record.key.created_at == NOW
    assert kept(record)["creationTimestamp"] == "2026-03-05T10:20:30.123456Z"


def test_the_metadata_of_the_server_is_not_taken_from_the_client() -> None:
    record = made(
        generation=7, creationTimestamp="1999-01-01T00:00:00Z", resourceVersion="42", labels={"app": "cart"},
        annotations={"note": "kept"},
    )  # fmt: skip
    assert record.key.generation == 1
    assert record.key.created_at == NOW
    assert (kept(record)["labels"], kept(record)["annotations"]) == ({"app": "cart"}, {"note": "kept"})


def test_a_request_without_an_identifier_claims_nothing() -> None:
    assert made().claim is None


@pytest.mark.parametrize(("sent", "identifier"), [({"uid": UID}, f"uid:{UID}"), ({"key": "k"}, "key:k")])
def test_the_same_request_has_the_same_claim(sent: dict[str, Any], identifier: str) -> None:
    first, again = made(**sent), made(**sent)
    assert first.claim == again.claim
    assert isinstance(first.claim, Claim)
    assert first.claim.identifier_hash == sha256(identifier.encode())


def test_a_uid_counts_before_a_key() -> None:
    assert made(uid=UID, key="k").claim == made(uid=UID).claim


@pytest.mark.parametrize(
    "other",
    [
        {"spec": {**AUDIT_SPEC, "phase": "Failed"}},
        {"name": "b"},
        {"labels": {"a": "b"}},
        {"namespace": "shop"},
    ],
)
def test_another_request_under_the_identifier_has_another_hash(other: dict[str, Any]) -> None:
    first, second = made(uid=UID).claim, made(uid=UID, **other).claim
    assert first is not None
    assert second is not None
    assert first.identifier_hash == second.identifier_hash
    assert first.request_hash != second.request_hash


def test_what_does_not_matter_does_not_change_the_claim() -> None:
    """The order of fields, null fields, and the caller: another replica of a controller may send it again."""
    spec = dict(reversed([*AUDIT_SPEC.items()]))
    again = made(spec, uid=UID.upper(), by="another robot", labels=None, resourceVersion="42")
    assert again.claim is not None
    assert again.claim.identifier_hash == sha256(f"uid:{UID}".encode())
    assert again.claim == made(uid=UID).claim == made(uid=UID, labels=None, resourceVersion="42").claim


def test_an_identifier_counts_in_one_namespace_and_not_in_the_next_of_that_name() -> None:
    def claim(created_at: datetime | None, key: str | None, **metadata: Any) -> Claim | None:
        body = {"metadata": {"namespace": "payments", **metadata}, "spec": dict(AUDIT_SPEC)}
        return record_of_request(
            body, recorded_by="robot", idempotency_key=key, namespace_created_at=created_at, with_text=False
        ).claim

    for key, metadata in (("k", {}), (None, {"uid": UID})):
        claims = [claim(at, key, **metadata) for at in (NOW, NOW, NOW + timedelta(seconds=1), None)]
        hashes = [each.identifier_hash for each in claims if each is not None]
        assert hashes[0] == hashes[1]
        assert len(set(hashes)) == 3
        assert len({each.request_hash for each in claims if each is not None}) == 1
