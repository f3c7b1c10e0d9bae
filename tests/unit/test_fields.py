"""The parameter ``fields`` of a list: what it accepts, and what it leaves of a record."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from datastorage.api.fields import Fields, parse_fields
from datastorage.errors import InvalidQueryError
from datastorage.query.archivedrecord import archived
from datastorage.query.listedrecord import ListedRecord
from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import sha256
from datastorage.records.record import RecordKey, Table, Via
from datastorage.storage.places import Outline, Place, StoredRow

_NOW = datetime(2026, 3, 5, tzinfo=UTC)
_PLACE = Place(Table.AUDIT_RECORDS, RecordKey(str(uuid.uuid4()), 1, _NOW, b"\0" * 32))
_OBJECT = {
    "kind": "AuditRecord",
    "metadata": {"name": "a", "labels": {"x.y/z": "1"}},
    "spec": {"message": "m", "execution": {"success": True, "durationMs": 5}, "details": [{"a": 1}]},
}


def listed(value: Any = _OBJECT, *, with_content: bool = True) -> ListedRecord:
    content = canonical_bytes(value) if value is not None else b"\x00"
    outline = Outline(
        _PLACE, "n", "a", _NOW, sha256(content), False, Via.API, "robot", None, "Execution", "scale", None,  # noqa: FBT003
        None, ("Pod", None, "p"),
    )  # fmt: skip
    row = StoredRow(_PLACE, "n", "a", _NOW, content, sha256(content), False, Via.API, "robot")  # noqa: FBT003
    return ListedRecord(outline, archived(row) if with_content else None)


def test_without_the_parameter_there_is_no_content() -> None:
    fields = parse_fields(None)
    assert fields == Fields()
    assert not fields.need_content
    item = fields.of(listed(with_content=False))
    assert (item["action"], item["target"]) == ("scale", {"kind": "Pod", "namespace": None, "name": "p"})
    assert not {"record", "intact"} & item.keys()


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("record", _OBJECT),
        ("record.spec.message", {"spec": {"message": "m"}}),
        ("record.spec.message, record.kind", {"spec": {"message": "m"}, "kind": "AuditRecord"}),
        ("record.spec.execution.success", {"spec": {"execution": {"success": True}}}),
        # Where one path ends within another, all of it is wanted, in either order.
        ("record.spec.execution,record.spec.execution.success", {"spec": {"execution": _OBJECT["spec"]["execution"]}}),  # type: ignore[index]  # noqa: E501
        ("record.spec.execution.success,record.spec.execution", {"spec": {"execution": _OBJECT["spec"]["execution"]}}),  # type: ignore[index]  # noqa: E501
        ("record.spec.severity", {"spec": {}}),
        ("record.spec.details.a", {"spec": {}}),
        ("record.spec.message.text", {"spec": {}}),
        ("record.metadata.labels", {"metadata": {"labels": {"x.y/z": "1"}}}),
        ("record,record.kind", _OBJECT),
    ],
)  # fmt: skip
def test_the_fields_that_are_asked_for_are_left(text: str, record: Any) -> None:
    fields = parse_fields(text)
    assert fields.need_content
    item = fields.of(listed())
    assert item["record"] == record
    assert item["intact"] is True


def test_the_check_of_the_content_can_be_asked_for_alone() -> None:
    item = parse_fields("intact").of(listed())
    assert item["intact"] is True
    assert "record" not in item


def test_a_content_that_can_t_be_read_is_null() -> None:
    assert parse_fields("record.spec.message").of(listed(None))["record"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not known: give intact, record, or a field of the record such as record.spec.message"),
        ("spec", "'spec' is not known"),
        ("intact.x", "'intact.x' is not known"),
        ("record,", "'' is not known"),
        ("record.", "must have 1 to 8 names"),
        ("record.spec..x", "must have 1 to 8 names"),
        ("record.spec.details" + ".a" * 6, "must have 1 to 8 names"),
        ("record.status", "record has apiVersion, kind, metadata, spec"),
        ("record.spec.mesage", "record.spec has action, actionType, .*, message, "),
        ("record.spec.'; DROP TABLE x", "is not known"),
        (",".join(["record"] * 33), "more than 32 fields"),
        ("record." + "x" * 1000, "more than 32 fields or 1,000 characters"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(text: str, message: str) -> None:
    with pytest.raises(InvalidQueryError, match=message):
        parse_fields(text)
