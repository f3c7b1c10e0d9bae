"""Hypothesis strategies for the values that users may put into the custom resources.

The strategies are derived from the generated CRDs, so they include a new field as soon as it exists; only CEL
rules beyond the schema are written by hand.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from datastorage.resources.crd import crd
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, ResourceKind

JSON = Any
INT64 = 2**63

_TEXT_SIZE = 60  # characters; longer ones find nothing new and cost time
_RESULT_OF = {"AIAnalysis": "aiAnalysis", "Workflow": "workflow", "Execution": "execution"}


def json_values(max_leaves: int = 20) -> st.SearchStrategy[JSON]:
    """Generate any JSON value that an API server keeps exactly.

    They include NUL characters, every integer of 64 bits and all finite floats, but no lone surrogates, which
    the API server replaces.
    """
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(min_value=-INT64, max_value=INT64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts()
    )
    return st.recursive(leaves, _containers, max_leaves=max_leaves)


def json_objects() -> st.SearchStrategy[dict[str, JSON]]:
    """Generate any JSON object, with any keys."""
    return st.dictionaries(texts(), json_values(8), max_size=4)


def texts(min_size: int = 0, max_size: int = _TEXT_SIZE) -> st.SearchStrategy[str]:
    """Generate any text without lone surrogates; it may contain NUL characters."""
    return st.text(min_size=min_size, max_size=max_size) | st.sampled_from(
        [text for text in ("\0", "a\0b", "\u2028", "🧨", "{}", "é" * 30) if min_size <= len(text) <= max_size]
    )


def times() -> st.SearchStrategy[str]:
    """Generate RFC 3339 times of any year and offset, with fractions of a second of up to six digits."""
    offsets = st.integers(min_value=-23 * 60 - 59, max_value=23 * 60 + 59)
    zones = st.just(UTC) | offsets.map(lambda minutes: timezone(timedelta(minutes=minutes)))
    return st.datetimes(timezones=zones).map(_rfc3339)


def audit_record_specs() -> st.SearchStrategy[dict[str, JSON]]:
    """Generate specs of AuditRecords that the API server accepts."""
    return _from_schema(_spec_schema(AUDIT_RECORD)).map(_obey_audit_rules)


def action_trace_specs() -> st.SearchStrategy[dict[str, JSON]]:
    """Generate specs of new ActionTraces that the API server accepts."""
    return _from_schema(_spec_schema(ACTION_TRACE)).map(_obey_trace_rules)


def _containers(children: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
    return st.lists(children, max_size=4) | st.dictionaries(texts(), children, max_size=4)


def _rfc3339(moment: datetime) -> str:
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _spec_schema(kind: ResourceKind) -> Mapping[str, Any]:
    root = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec: Mapping[str, Any] = root["properties"]["spec"]
    return spec


def _from_schema(schema: Mapping[str, Any]) -> st.SearchStrategy[JSON]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return json_objects() if schema.get("type") == "object" else json_values()
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object":
            return _objects(schema)
        case "array":
            return st.lists(_from_schema(schema["items"]), max_size=min(3, schema["maxItems"]))
        case "string" if schema.get("format") == "date-time":
            return times()
        case "string":
            return texts(schema.get("minLength", 0), min(_TEXT_SIZE, schema["maxLength"]))
        case "integer":
            return st.integers(schema["minimum"], schema.get("maximum", INT64 - 1))
        case "number":
            return st.floats(schema["minimum"], schema["maximum"]) | st.sampled_from([0, 1])
        case "boolean":
            return st.booleans()
    raise NotImplementedError(schema)


def _objects(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, JSON]]:
    if "additionalProperties" in schema:
        values = _from_schema(schema["additionalProperties"])
        return st.dictionaries(texts(), values, max_size=min(3, schema["maxProperties"]))
    fields = {name: _from_schema(sub) for name, sub in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=fields)


def _obey_audit_rules(spec: dict[str, JSON]) -> dict[str, JSON]:
    allowed = _RESULT_OF.get(spec["type"])
    others = {field for field in _RESULT_OF.values() if field != allowed}
    return _in_order({name: value for name, value in spec.items() if name not in others})


def _obey_trace_rules(spec: dict[str, JSON]) -> dict[str, JSON]:
    if "execution" in spec:
        return spec | {"execution": _in_order(spec["execution"])}
    return spec


def _in_order(fields: dict[str, JSON]) -> dict[str, JSON]:
    """Exchange startTime and endTime where the end is before the start."""
    if "startTime" not in fields or "endTime" not in fields:
        return fields
    start, end = sorted((fields["startTime"], fields["endTime"]), key=datetime.fromisoformat)
    return fields | {"startTime": start, "endTime": end}
