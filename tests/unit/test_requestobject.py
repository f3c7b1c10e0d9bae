"""The objects that stand for requests: their names, and the claims that are read from them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from datastorage.records.record import Claim, Record
from datastorage.resources.kinds import RECORDED_BY_ANNOTATION
from datastorage.resources.reading.requestobject import claim_of, name_of, stands_for_request
from datastorage.resources.reading.requestrecord import record_of_request
from datastorage.resources.validation.names import is_dns_subdomain
from harness.objects import AUDIT_SPEC, audit_record

NAMESPACE_MADE = datetime(2026, 3, 5, 10, 20, 30, tzinfo=UTC)


def requested(**metadata: Any) -> Record:
    body = {"metadata": {"namespace": "payments", **metadata}, "spec": dict(AUDIT_SPEC)}
    return record_of_request(
        body, recorded_by="robot", idempotency_key="k", namespace_created_at=NAMESPACE_MADE, with_text=False
    )


def name(**metadata: Any) -> str:
    claim = requested(**metadata).claim
    assert claim is not None
    return name_of(claim.identifier_hash)


def read(spec: dict[str, Any] | None = None, **metadata: Any) -> Claim | None:
    return claim_of(audit_record(spec, **{"name": name(), **metadata}))


def test_the_name_is_one_that_the_api_server_takes() -> None:
    assert is_dns_subdomain(name())
    assert name().startswith("idempotency-key-")
    assert stands_for_request(name())


@pytest.mark.parametrize(
    "said", [{}, {"labels": {"app": "cart"}}, {"annotations": {"note": "kept"}}, {"labels": {}}]
)
def test_the_claim_is_that_of_the_request(said: dict[str, Any]) -> None:
    assert read(**said) == requested(**said).claim


def test_the_name_of_the_author_does_not_belong_to_the_request() -> None:
    assert read(annotations={RECORDED_BY_ANNOTATION: "operator"}) == requested().claim
    both = {"note": "kept", RECORDED_BY_ANNOTATION: "operator"}
    assert read(annotations=both) == requested(annotations={"note": "kept"}).claim


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": {"app": "cart"}},
        {"annotations": {"note": "other"}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}]},
        {"spec": {**AUDIT_SPEC, "phase": "Failed"}},
        {"spec": {**AUDIT_SPEC, "type": "Execution"}},
        {"namespace": "shop"},
    ],
)
def test_another_content_is_another_request(changed: dict[str, Any]) -> None:
    found, expected = read(**changed), requested().claim
    assert found is not None
    assert expected is not None
    assert found.identifier_hash == expected.identifier_hash
    assert found.request_hash != expected.request_hash


def test_an_object_on_hold_is_equal_to_no_request() -> None:
    """Its object would be deleted."""
    held = {"datastorage.kubernaut.io/legal-hold": "true"}
    found, request = read(labels=held), requested(labels=held).claim
    assert found is not None
    assert request is not None
    assert found.identifier_hash == request.identifier_hash
    assert found.request_hash != request.request_hash


@pytest.mark.parametrize(
    "other",
    [
        "object-1",
        "idempotency-key-1",
        "x-idempotency-key-" + "a" * 64,
        "idempotency-key-" + "a" * 65,
        "idempotency-key-" + "A" * 64,
    ],
)
def test_other_objects_stand_for_no_request(other: str) -> None:
    assert read(name=other) is None
