"""The OpenAPI document: what the routes say of themselves, and the parts that FastAPI can't know."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from datastorage.api.answerschemas import SCHEMAS_AT, schemas
from datastorage.api.authorization import NAMESPACE_PATTERN
from datastorage.api.errorcodes import ANYWHERE, CODES
from datastorage.api.problems import MEDIA_TYPE, Problem
from datastorage.api.replicalag import HEADER as REPLICA_LAG
from datastorage.api.requestid import HEADER, TRACE_HEADER
from datastorage.api.requestschema import request_schemas
from datastorage.query.questionwords import MAX_QUESTION_CHARACTERS
from datastorage.resources.reading.fields import MAX_INDEXED_CHARACTERS

JSON: Final = "application/json"

TITLE: Final = "Kubernaut Data Storage"
DESCRIPTION: Final = """\
Stores what controllers did, and answers questions about it. A record that is acknowledged is committed \
to PostgreSQL; one that is answered with 202 is kept in the cluster until it is.

Send the token of a Kubernetes ServiceAccount as `Authorization: Bearer TOKEN`. The rights of the \
ServiceAccount in the cluster decide what it may store and read.

Every error is a problem document (RFC 9457). Programs read its `code`, people its `detail`."""

# PostgreSQL can't hold this character in a text.
_NO_NUL: Final = "^[^\\u0000]*$"
_TAGS: Final = {
    "store": "Store AuditRecords.",
    "query": "Ask the archive. A caller with the right in the whole cluster sees all records. Any other "
    "caller names a namespace, and sees the records that were created since that namespace was.",
    "process": "The process itself: its state, for probes, and its version. These need no token.",
}
_SECURITY: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token for the audience `datastorage` (or what `DATASTORAGE_API_AUDIENCE` says): "
        "`kubectl create token SERVICEACCOUNT --audience datastorage`.",
    }
}
_REPLICA_LAG: Final = {
    "description": "Where `DATASTORAGE_READ_DATABASE_URL` names a standby: the answer has everything that "
    "was committed more than this many seconds ago. 0 if the primary gave it. Missing while the lag is not "
    "known.",
    "required": False,
    "schema": {"type": "number"},
}
_CALLER_ERRORS: Final = ("not-authenticated", "not-allowed", "too-many-requests", "unavailable")
_STATUS_HEADERS: Final[Mapping[HTTPStatus, tuple[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "Always `Bearer`."),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", "Seconds after which to send the request again."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After", "Seconds after which to send the request again."),
}


def answer(
    description: str,
    schema: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    example: Any = None,
    others: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the description of a success.

    ``schema`` is the name of a model of api/answerschemas.py, ``headers`` maps names to meanings, and
    ``others`` maps further media types to their contents.
    """
    found: dict[str, Any] = {"description": description}
    if headers:
        found["headers"] = {name: _header(meaning) for name, meaning in headers.items()}
    if schema is not None:
        content: dict[str, Any] = {"schema": {"$ref": SCHEMAS_AT + schema}}
        if example is not None:
            content["example"] = example
        others = {JSON: content, **(others or {})}
    if others:
        found["content"] = others
    return found


def operation(
    id_: str,
    summary: str,
    description: str,
    *,
    answers: Mapping[int, Mapping[str, Any]],
    errors: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments of a route that describe it; ``errors`` are codes beside those of every route."""
    return {
        "operation_id": id_,
        "summary": summary,
        "description": description,
        "responses": {**answers, **_errors((*errors, *_CALLER_ERRORS))},
        "openapi_extra": dict(extra or {}),
    }


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with the schemas, the probes and the security added."""
    for methods in document["paths"].values():
        for described in methods.values():
            described["responses"] = dict(sorted(_own_answers(described["responses"])))
            success = described["responses"].get("200", {})
            # An export, which has no JSON answer, always comes from the primary.
            if "query" in described.get("tags", ()) and JSON in success["content"]:
                success.setdefault("headers", {})[REPLICA_LAG] = _REPLICA_LAG
            for parameter in described.get("parameters", ()):
                _simplify(parameter)
    components = document.setdefault("components", {})
    own = components.setdefault("schemas", {})
    for methods in document["paths"].values():
        for described in methods.values():
            _name_body(described, own)
    for name in ("HTTPValidationError", "ValidationError"):
        own.pop(name, None)
    components["schemas"] = dict(sorted({**own, **schemas(), **request_schemas()}.items()))
    for schema in components["schemas"].values():
        _untitle(schema)
    document["paths"].update(dict(_without_token()))
    components["securitySchemes"] = _SECURITY
    document["security"] = [{"bearer": []}]
    _add_to_every_request(document)
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
    return document


def _errors(codes: Sequence[str]) -> dict[int, dict[str, Any]]:
    by_status: dict[HTTPStatus, list[str]] = {}
    for code in sorted(set(codes), key=lambda code: (CODES[code].status, list(CODES).index(code))):
        by_status.setdefault(CODES[code].status, []).append(code)
    return {int(status): _error(status, found) for status, found in by_status.items()}


def _error(status: HTTPStatus, codes: Sequence[str]) -> dict[str, Any]:
    examples = {
        code: {
            "summary": CODES[code].meaning,
            "value": Problem(status, code, CODES[code].meaning).as_json(),
        }
        for code in codes
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS_AT}Problem"}, "examples": examples}}
    found: dict[str, Any] = {"description": status.phrase, "content": content}
    if status in _STATUS_HEADERS:
        name, meaning = _STATUS_HEADERS[status]
        found["headers"] = {name: _header(meaning)}
    return found


def _header(meaning: str) -> dict[str, Any]:
    return {"description": meaning, "required": True, "schema": {"type": "string"}}


def _own_answers(responses: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leave out the answer that FastAPI would give to a wrong parameter: ours has status 400."""
    for status, described in responses.items():
        if status != "422" or MEDIA_TYPE in described["content"]:
            yield status, described


def _name_body(described: dict[str, Any], named: dict[str, Any]) -> None:
    """Move the schema of a body that has a title to the named ones."""
    for content in described.get("requestBody", {}).get("content", {}).values():
        title = content["schema"].get("title")
        if title is not None:
            named[title] = content["schema"]
            content["schema"] = {"$ref": SCHEMAS_AT + title}


def _simplify(parameter: dict[str, Any]) -> None:
    """Describe an optional parameter by the type that it has when it is given."""
    schema = parameter["schema"]
    options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    for option in options:
        schema.update(option)
    for key in ("title", "description"):
        schema.pop(key, None)
    if parameter["in"] != "header":
        parameter["schema"] = {**_limits(parameter["name"], schema), **schema}


def _limits(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of a value in a question, which the archive checks (query/)."""
    if name == "generation":
        return {"minimum": 0, "maximum": 2**63 - 1}
    if schema.get("type") != "string" or "format" in schema:
        return {}
    if name == "namespace":
        return {"pattern": NAMESPACE_PATTERN}
    if name == "q":
        return {"minLength": 1, "maxLength": MAX_QUESTION_CHARACTERS}
    return {"minLength": 1, "maxLength": MAX_INDEXED_CHARACTERS, "pattern": _NO_NUL}


def _untitle(schema: Any) -> None:
    """Remove the titles that pydantic makes of names."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for value in schema.values():
            _untitle(value)
    elif isinstance(schema, list):
        for value in schema:
            _untitle(value)


_PARAMETERS: Final = {
    HEADER: {
        "name": HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "An identifier of the request, which the answer and the operator's log repeat: up to "
        "64 letters, digits, `.`, `_` and `-`. Without one, or with another form, the operator makes one.",
        "example": "checkout-7f3a",
    },
    TRACE_HEADER: {
        "name": TRACE_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The trace of the caller (W3C Trace Context): the operator's log names it, and its "
        "spans continue it. Another form is ignored.",
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
}


def _add_to_every_request(document: dict[str, Any]) -> None:
    """Describe the headers that all requests and answers may have."""
    components = document["components"]
    components["parameters"] = _PARAMETERS
    components["responses"] = {code: _error(CODES[code].status, [code]) for code in ANYWHERE}
    components["headers"] = {HEADER: _header("The identifier of the request.")}
    shared = [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    for methods in document["paths"].values():
        for described in methods.values():
            described["parameters"] = [*described.get("parameters", ()), *shared]
            for each in described["responses"].values():
                own = {HEADER: {"$ref": f"#/components/headers/{HEADER}"}}
                each["headers"] = {**each.get("headers", {}), **own}


def _without_token() -> Iterator[tuple[str, dict[str, Any]]]:
    version = {
        "tags": ["process"],
        "operationId": "getVersion",
        "summary": "Get the version",
        "description": "Returns the versions of the program and of the API.",
        "security": [],
        "responses": {"200": answer("The versions.", "Version")},
    }
    texts = {
        "/health": (
            "getHealth",
            "Say whether the process works",
            "Fails only for what a restart would cure.",
        ),
        "/ready": (
            "getReadiness",
            "Say whether the process can do its work",
            "Reports all its dependencies.",
        ),
    }
    for path, (id_, summary, description) in texts.items():
        responses = {
            "200": answer("All checks succeed.", "Health"),
            "503": answer("At least one check fails.", "Health"),
        }
        described = {"tags": ["process"], "operationId": id_, "summary": summary, "description": description}
        yield path, {"get": {**described, "security": [], "responses": responses}}
    yield "/version", {"get": version}
