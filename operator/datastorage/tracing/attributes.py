"""The names of spans and of their attributes, and what they say of a record or an error.

They are those of OpenTelemetry's semantic conventions, and what these have no name for begins with
``datastorage.``.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry.semconv.attributes.db_attributes import DB_OPERATION_NAME, DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.k8s_attributes import K8S_NAMESPACE_NAME
from opentelemetry.trace import Span, Status, StatusCode

from datastorage.logs import object_fields
from datastorage.records.record import Record
from datastorage.resources.reading.registry import correlation_id_of, kind_of

Attributes = dict[str, str | int | bool]

STORE: Final = "store"
WAIT: Final = "wait"
COMMIT: Final = "commit"
BATCH: Final = "commit batch"
VECTOR: Final = "write vector"
CREATION: Final = "create object"
UID: Final = "datastorage.record.uid"
GENERATION: Final = "datastorage.record.generation"
DIVERGED: Final = "datastorage.record.diverged"
REPEATED: Final = "datastorage.record.repeated"
VECTOR_STATE: Final = "datastorage.vector.state"
TRANSACTION: Final = {DB_SYSTEM_NAME: "postgresql", DB_OPERATION_NAME: "INSERT"}
FAILED: Final = Status(StatusCode.ERROR)
_VIA: Final = "datastorage.record.via"
# The fields of a log entry about an object, and the attributes of a span about it.
_OF_FIELDS: Final = {
    "object_kind": "datastorage.record.kind",
    "object_namespace": K8S_NAMESPACE_NAME,
    "object_name": "datastorage.record.name",
    "object_uid": UID,
    "correlation_id": "datastorage.record.correlation_id",
}


def of_fields(fields: Mapping[str, str]) -> Attributes:
    """Return the attributes for the fields that name an object in a log entry."""
    return {_OF_FIELDS[name]: value for name, value in fields.items() if name in _OF_FIELDS}


def of_record(record: Record) -> Attributes:
    """Return the attributes that name a record."""
    fields = object_fields(
        kind=kind_of(record.table).kind,
        namespace=record.namespace,
        name=record.name,
        uid=record.key.uid,
        correlation_id=correlation_id_of(record),
    )
    return {**of_fields(fields), GENERATION: record.key.generation, _VIA: record.via.value}


def fail(span: Span, error: BaseException) -> None:
    """Note the class of an error. Its text may quote a row, a URL or a header."""
    span.set_attribute(ERROR_TYPE, type(error).__name__)
    span.set_status(FAILED)
