"""What each operation of the API does, for the OpenAPI document."""

from collections.abc import Mapping
from typing import Any, Final

from datastorage.api.answerschemas import SCHEMAS_AT
from datastorage.api.openapi import JSON, answer, operation
from datastorage.api.requestschema import EXAMPLE, RECORD, UID

NDJSON: Final = "application/x-ndjson"
CANONICAL: Final = "application/vnd.kubernaut.canonical+json"

_HASH: Final = "sha256:9b0d4e1f6a1c3f60c3f4f0fd0b0a4c7f6a5b1c2d3e4f5061728394a5b6c7d8e9"
_RECEIPT: Final = {
    "kind": "AuditRecord",
    "namespace": "payments",
    "name": "execution-2f6c1b8a9e41",
    "uid": UID,
    "generation": 1,
    "createdAt": "2026-03-14T09:27:11.043Z",
    "storedAt": "2026-03-14T09:27:11.061Z",
    "contentHash": _HASH,
    "recordedBy": "system:serviceaccount:payments:recorder",
    "via": "api",
}
_ACCEPTED: Final = {
    "kind": "AuditRecord",
    "namespace": "payments",
    "name": "execution-idempotency-key-4f0fd0b0a4c7f6a5b1c2d3e4f5061728394a5b6c7d8e99b0d4e1f6a1c3f60c3f",
    "stored": False,
}
_QUERY_ERRORS: Final = ("invalid-parameter", "invalid-query", "overloaded")
_ETAG: Final = "The content hash, in quotes."
_STORED_HEADERS: Final = {"Location": "Path of the stored record.", "ETag": _ETAG}
_REF: Final = {"$ref": SCHEMAS_AT + RECORD}


def _bodies(records: int) -> dict[str, Any]:
    first = {"value": EXAMPLE, "summary": "One record."}
    batch = {"value": [EXAMPLE], "summary": "An array of records."}
    array = {"type": "array", "minItems": 1, "maxItems": records, "items": _REF}
    lines = "One record in each line; empty lines do not count."
    return {
        JSON: {"schema": {"oneOf": [_REF, array]}, "examples": {"one": first, "batch": batch}},
        NDJSON: {"schema": {"type": "string", "description": lines}},
    }


def store(*, records: int, body_bytes: int) -> dict[str, Any]:
    """Return the description of the route that stores records; the arguments are its limits."""
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": "Identifier of a single record without `metadata.uid`. It counts within the "
        "record's namespace.",
    }
    body = {
        "required": True,
        "description": f"One record, or a batch of 1 to {records:,}; {body_bytes // 2**20} MiB at most.",
        "content": _bodies(records),
    }
    return operation(
        "storeRecords",
        "Store records",
        "Stores one record, an array of records, or a record in each line (NDJSON). A body is what "
        "`kubectl create` would take, and the rules are the same. Each record is committed to PostgreSQL "
        "before the answer, unless that is 202.\n\n"
        "If `DATASTORAGE_API_FALLBACK` is `custom-resource` and PostgreSQL is away, a single record with "
        "`Idempotency-Key` and without `metadata.uid`, `metadata.name`, `metadata.ownerReferences` and a "
        "legal hold is created as a custom resource instead, and the answer is 202. The operator stores it "
        "once PostgreSQL is back. Send the same request again then, for the receipt.\n\n"
        "With `metadata.uid`, or with the header `Idempotency-Key`, the same request may be sent again at "
        "any time. It never makes a second record: the answer is 200 with the first receipt. Without an "
        "identifier, each request makes a new record.\n\n"
        "A batch is answered with 207 and a result for each record, each stored or refused by itself. With "
        "`atomic=true`, all records are stored in one transaction, or none: then the answer is one problem "
        "whose `items` are the records at fault. Records that were sent and stored before stay as they are, "
        "with the status 200, and the others are stored.\n\n"
        "Needs the right to create `auditrecords.datastorage.kubernaut.io` in the namespace of each record.",
        answers={
            200: answer(
                "The same request was stored before.", "Receipt", headers=_STORED_HEADERS, example=_RECEIPT
            ),
            201: answer("The record is stored.", "Receipt", headers=_STORED_HEADERS, example=_RECEIPT),
            202: answer(
                "PostgreSQL is away, and the record is kept as a custom resource until it is back. Only if "
                "`DATASTORAGE_API_FALLBACK` is `custom-resource`.",
                "Accepted",
                example=_ACCEPTED,
            ),
            207: answer("A batch: each record has its own result.", "BatchResult"),
        },
        errors=(
            "invalid-json", "invalid-record", "no-records", "incomplete", "invalid-idempotency-key",
            "idempotency-key-of-batch", "invalid-parameter", "invalid-query", "body-too-large",
            "too-many-records", "unsupported-media-type", "identifier-reused", "rejected", "refused",
            "batch-not-stored", "overloaded",
        ),
        extra={"requestBody": body, "parameters": [key]},
    )  # fmt: skip


_SEARCH: Final = (
    "Finds records by meaning and by words at once (`mode`: hybrid), or by one of both. Records that contain "
    "an identifier of the question, or all of its quoted words, come first. Of an ActionTrace, only the "
    "newest generation is found. If there are no vectors, a hybrid search goes by words alone, and "
    "`degraded` says why."
)
_LISTS: Final = "Needs the right to list `records.archive.datastorage.kubernaut.io`."
_GETS: Final = "Needs the right to get `records.archive.datastorage.kubernaut.io`."
_FOUND: Final = {200: answer("The hits, the best first.", "SearchResult")}

SEARCH: Final = operation(
    "search", "Search records", f"{_SEARCH}\n\n{_LISTS}", answers=_FOUND, errors=_QUERY_ERRORS
)


def search_in_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the search by POST; ``schema`` is that of its body."""
    return operation(
        "searchWithBody",
        "Search records, with the question in the body",
        f"The same search. The question stays out of URLs, and so out of the logs of proxies.\n\n{_LISTS}",
        answers=_FOUND,
        errors=(*_QUERY_ERRORS, "invalid-json", "incomplete", "body-too-large", "unsupported-media-type"),
        extra={"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}},
    )


LIST: Final = operation(
    "listRecords",
    "List records",
    "Lists the records that meet all conditions, the newest first; of an ActionTrace only the newest "
    "generation. A page may have fewer records than `pageSize` and yet a next one, when the records "
    f"are large.\n\n{_LISTS}",
    answers={200: answer("A page of records.", "Page")},
    errors=_QUERY_ERRORS,
)
HISTORY: Final = operation(
    "getHistory",
    "Get the history of an ActionTrace",
    f"Returns all generations of an ActionTrace, the newest first.\n\n{_GETS}",
    answers={200: answer("All generations.", "History")},
    errors=(*_QUERY_ERRORS, "not-found"),
)
GET: Final = operation(
    "getRecord",
    "Get a record",
    "Returns the newest generation, or the given one. "
    f"With `Accept: {CANONICAL}`, the answer is the stored bytes, whose SHA-256 is the content hash."
    f"\n\n{_GETS}",
    answers={
        200: answer(
            "The record.",
            "Record",
            headers={"ETag": _ETAG, "Vary": "`Accept, Authorization`."},
            others={CANONICAL: {"schema": {"type": "object", "description": "The stored bytes."}}},
        ),
        304: answer(
            "The caller has this content.", headers={"ETag": _ETAG, "Vary": "`Accept, Authorization`."}
        ),
    },
    errors=(*_QUERY_ERRORS, "not-found"),
    extra={
        "parameters": [
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "The ETag of an earlier answer: if it is still right, the answer is 304.",
            }
        ]
    },
)
TIMELINE: Final = operation(
    "getTimeline",
    "Get the timeline of a remediation",
    "Returns everything that was recorded of a remediation in the order of the events, with every generation "
    f"of its ActionTraces. For an unknown remediation, `items` is empty.\n\n{_LISTS}",
    answers={200: answer("The remediation, or a page of it.", "Timeline")},
    errors=_QUERY_ERRORS,
)
