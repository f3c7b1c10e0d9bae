"""Objects that are valid, nearly valid, or not valid at all.

They are valid ones of which fields, known to the schema or not, were set to values at and beyond their
bounds, so that every keyword of the definitions is tried on both sides: each edge by itself, and at random
together.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from hypothesis import strategies as st

from datastorage.resources.kinds import ACTION_TRACE, API_VERSION, AUDIT_RECORD, ResourceKind
from harness.strategies import (
    INT64,
    RESULT_OF,
    action_trace_specs,
    audit_record_specs,
    json_values,
    schema_of,
    texts,
    times,
)

JSON = Any
_Path = tuple[str, ...]

_TIMES: Final = (
    "0001-01-01T00:00:00Z", "0000-12-31T23:59:00Z", "0001-01-01T00:00:59.999999999Z",
    "0001-01-01T00:01:00Z", "0000-02-29T00:00:00Z", "0000-02-30T00:00:00Z", "1900-02-29T00:00:00Z",
    "2000-02-29T00:00:00Z", "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:00.000000002Z",
    "2026-01-01T00:30:00Z", "2026-01-01T00:00:00-01:00",
    "2026-01-01T00:00:00.0000000001Z", "2026-01-01T24:00:00Z", "2026-01-01T23:60:00Z",
    "2026-12-31T23:59:60Z", "2026-01-01T1:00:00Z", "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00.Z",
    "2026-01-01t00:00:00z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+23:59",
    "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00-24:60", "2026-01-01T00:00:00+2460",
    "2026-01-01T00:00:00+24:61", "9999-12-31T23:59:59.999999999-23:59", "2026-01-01T00:00:00Z\n",
    "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-1-1T00:00:00Z",
    "٢٠٢٦-01-01T00:00:00Z", "soon", "",
)  # fmt: skip
_COMPARED: Final = 12  # the first of them differ from each other by what a comparison may get wrong
_NUMBERS: Final = (
    0, -0.0, 1, -1, 0.5, 1.0, 1.5, -5.0, 1e-7, 1 + 1e-12, 1.0000001, 1e15, 1e17, 1e300, 2**31 - 1, 2**31,
    2.0**31, 2**53 - 1, 2.0**53 - 1, 2**53, 2.0**53, 2.0**62, 2.0**63, -(2.0**63), INT64 - 1, INT64,
    -INT64, -INT64 - 1, True, False,
)  # fmt: skip
_OTHER: Final[Sequence[JSON]] = (
    None, "", "a", "Remediation", [], {}, [None], [[]], [{}], [{"a": 1}], {"a": 1}, {"a": None},
    {"name": "a"},
)  # fmt: skip

_NAMES: Final = (
    "", "a", "A", "a-b.c", "a-", "-a", "a.", ".a", "a..b", "a.-", "a-.b", "a_b", "a/b", "a%b", ".", "..",
    "1", "é", "a\n", "a" * 63, "a" * 64, "a" * 58 + "-b", "a" * 253, "a" * 254, ".".join(["a" * 60] * 4),
    "a.b-", "ab-", "a" * 62 + "-",
)  # fmt: skip
_KEYS: Final = (
    "", "a", "A", "-a", "a_b.c", "a/b", "A/b", "a/", "/a", "a/b/c", "a" * 63, "a" * 64, "a." * 126 + "a/b",
    "a." * 127 + "a/b", "kubernetes.io/a", "\u212a", "\u0130", "É", "a b", "a\n",
)  # fmt: skip
_VALUES: Final[Sequence[JSON]] = (
    "", "a", "a" * 63, "a" * 64, "-a", "a-", "a b", "é", "A_b.c-d", "a\n", None, 1, True, [], {},
)  # fmt: skip
_FINALIZERS: Final[Sequence[JSON]] = (
    "orphan", "foregroundDeletion", "a.b/c", "a", "", "/", "A/b", "a b", None, 1,
)  # fmt: skip

_OWNER: Final = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"}
_OWNERS: Final[Sequence[JSON]] = (
    _OWNER,
    *(
        {**_OWNER, "apiVersion": version}
        for version in ("apps/v1", "/v1", "apps/", "/", "a/b/c", "", None, 1)
    ),
    *({**_OWNER, field: value} for field in ("kind", "name", "uid") for value in ("", None, 1)),
    *({**_OWNER, "controller": value} for value in (True, False, None, 1, "a")),
    *({**_OWNER, "blockOwnerDeletion": value} for value in (True, None, "a")),
    *({**_OWNER, "kind": "Event", "apiVersion": version} for version in ("v1", "/v1", "events.k8s.io/v1")),
    {**_OWNER, "more": 1},
)
_CONTROLLER: Final = {**_OWNER, "controller": True}
# The operation is always a right one: the API server keeps or drops an entry by its whole content, and
# refuses another operation only in an entry that it keeps.
_MANAGED: Final = {
    "operation": "Update",
    "manager": "kubectl",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:spec": {}},
}

# The object whose startTime and endTime are compared.
_TIMED: Final[Mapping[str, _Path]] = {AUDIT_RECORD.kind: (), ACTION_TRACE.kind: ("execution",)}

_METADATA: Final[Mapping[str, Sequence[JSON]]] = {
    "name": (*_NAMES, 1, []),
    "generateName": (*_NAMES, *_OTHER),
    "labels": (*({key: "a"} for key in _KEYS), *({"a": value} for value in _VALUES), *_OTHER),
    "annotations": (
        *({key: "a"} for key in _KEYS),
        *({"a": value} for value in _VALUES),
        *({"a": "b" * (262_143 + more)} for more in (0, 1)),
        *({"a": "é" * 131_071 + "b" * more} for more in (1, 2)),
        *_OTHER,
    ),
    "ownerReferences": (
        *([owner] for owner in _OWNERS),
        [_CONTROLLER, _CONTROLLER],
        [_CONTROLLER, {**_CONTROLLER, "blockOwnerDeletion": False}],
        [_CONTROLLER, {**_CONTROLLER, "uid": "v", "controller": False}],
        [_CONTROLLER, {**_CONTROLLER, "uid": "v"}],
        *_OTHER,
    ),
    "finalizers": (
        *([value] for value in _FINALIZERS),
        ["orphan", "foregroundDeletion"],
        ["orphan", "orphan"],
        *_OTHER,
    ),
    "managedFields": (
        [_MANAGED],
        *([{**_MANAGED, "time": value}] for value in (*_TIMES, None, 1)),
        *([{**_MANAGED, "manager": value}] for value in ("", None, 1)),
        *([{**_MANAGED, "fieldsV1": value}] for value in _OTHER),
        [{**_MANAGED, "fields": {}}],
        *_OTHER[:-1],
    ),
    **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), (*_TIMES, *_OTHER)),
    **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), (*_NUMBERS, *_OTHER)),
    **dict.fromkeys(("selfLink", "uid"), ("\0é🧨", *_OTHER)),
    **dict.fromkeys(("clusterName", "Name", "a~b/c"), _OTHER),
}


def objects(kind: ResourceKind, namespace: str) -> st.SearchStrategy[dict[str, JSON]]:
    """Generate objects to be created in a namespace, about half of which the API server accepts."""
    nothing: st.SearchStrategy[dict[str, JSON]] = st.just({})
    status = st.sampled_from(list(statuses(kind))).map(lambda value: {"status": value})
    return st.builds(
        lambda spec, metadata, more: placed(kind, namespace, spec, metadata) | more,
        _specs(kind),
        nothing | _metadatas(),
        nothing | nothing | nothing | status | st.just({"data": {}}),
    )


def placed(
    kind: ResourceKind, namespace: str, spec: JSON, metadata: Mapping[str, JSON] | None = None
) -> dict[str, JSON]:
    """Return an object that is to be created in a namespace."""
    named = {"name": "an-object", **(metadata or {}), "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": named, "spec": spec}


def edges(kind: ResourceKind, spec: JSON) -> Iterator[JSON]:
    """Yield the spec with each field of the schema set to each value at and beyond its bounds."""
    schema = schema_of(kind, "spec")
    for path, sub in _fields(schema):
        for value in _edges(sub):
            yield _changed(_fitting(spec, path), [(path, value)])
    for path in _unknown_paths(schema):
        yield _changed(_fitting(spec, path), [(path, None)])


def rule_edges(kind: ResourceKind, spec: JSON) -> Iterator[JSON]:
    """Yield the spec with values that the CEL rules compare: pairs of times, and a result with each type."""
    moments: Sequence[JSON] = (*_TIMES[:_COMPARED], [])
    for start in moments:
        for end in moments:
            yield _changed(spec, [((*_TIMED[kind.kind], name), time) for name, time in _span(start, end)])
    if kind is AUDIT_RECORD:
        results: dict[str, JSON] = {name: {} for name in RESULT_OF.values()}
        bare = {name: value for name, value in spec.items() if name not in results}
        for audit_type in schema_of(kind, "spec")["properties"]["type"]["enum"]:
            yield from (bare | {"type": audit_type, name: {}} for name in results)


def metadata_edges() -> Iterator[dict[str, JSON]]:
    """Yield metadata with each field set to each value at and beyond its bounds.

    The namespace is left to the tests. Without a version, which a dry run ignores, and with a name, which is
    required in the cluster alone.
    """
    for name, values in _METADATA.items():
        yield from ({name: value} for value in values if name != "name" or value)


def statuses(kind: ResourceKind) -> Iterator[JSON]:
    """Yield statuses of any form, of which the API server looks at the names of the fields alone."""
    schema = schema_of(kind, "status")
    yield from _OTHER
    for path, _ in _fields(schema):
        yield from (_changed({}, [(path, value)]) for value in _OTHER)
    for path in _unknown_paths(schema):
        yield _changed({}, [(path, None)])


def _specs(kind: ResourceKind) -> st.SearchStrategy[JSON]:
    """Generate valid specs, and valid ones of which a few fields were changed."""
    valid = audit_record_specs() if kind is AUDIT_RECORD else action_trace_specs()
    schema = schema_of(kind, "spec")
    change = st.sampled_from(list(_fields(schema))).flatmap(
        lambda found: st.tuples(st.just(found[0]), st.sampled_from(_edges(found[1])) | json_values(4))
    )
    unknown = st.tuples(st.sampled_from(_unknown_paths(schema)), st.sampled_from(_OTHER))
    changes = st.lists(change, min_size=1, max_size=2) | st.lists(unknown, max_size=1)
    return st.builds(_changed, valid, changes | _against_rules(kind)) | valid


def _against_rules(kind: ResourceKind) -> st.SearchStrategy[list[tuple[_Path, JSON]]]:
    """Generate changes that the CEL rules of the definitions are about."""
    moments: st.SearchStrategy[JSON] = (
        st.sampled_from(_TIMES[:_COMPARED]) | st.sampled_from(_TIMES) | times() | st.just([])
    )
    spans = st.builds(
        lambda start, end: [((*_TIMED[kind.kind], name), time) for name, time in _span(start, end)],
        moments,
        moments,
    )
    if kind is not AUDIT_RECORD:
        return spans.map(lambda span: [(("execution", "status"), "Executing"), *span])
    results = st.sampled_from(list(RESULT_OF.values()))
    return spans | st.lists(results.map(lambda name: ((name,), {})), min_size=1, max_size=2)


def _span(start: JSON, end: JSON) -> list[tuple[str, JSON]]:
    return [("startTime", start), ("endTime", end)]


def _metadatas() -> st.SearchStrategy[dict[str, JSON]]:
    one = st.sampled_from(list(metadata_edges())) | st.builds(lambda uid: {"uid": uid}, texts())
    return one | st.builds(lambda left, right: left | right, one, one)


def _fields(schema: Mapping[str, Any], path: _Path = ()) -> Iterator[tuple[_Path, Mapping[str, Any]]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from _fields(sub, (*path, name))
    if "items" in schema:
        yield from _fields(schema["items"], (*path, "0"))


def _unknown_paths(schema: Mapping[str, Any]) -> list[_Path]:
    return [(*path, "a~colour/s") for path, sub in _fields(schema) if "properties" in sub]


def _edges(schema: Mapping[str, Any]) -> list[JSON]:
    """Return values at and beyond the bounds of a schema, and of other types."""
    found: list[JSON] = [*_OTHER]
    if schema.get("format") == "date-time":
        found += _TIMES
    if "maxLength" in schema:
        found += [mark * (schema["maxLength"] + more) for mark in "aé🧨\0" for more in (0, 1)]
    if "enum" in schema:
        found += [*schema["enum"], schema["enum"][0].lower()]
    if "maxItems" in schema:
        item = dict.fromkeys(schema["items"].get("required", ()), "a")
        found += [[item] * (schema["maxItems"] + more) for more in (0, 1)]
    if "maxProperties" in schema:
        most = {str(number): "" for number in range(schema["maxProperties"])}
        found += [most, most | {"a": ""}, most | {"a": None}, {"a": 1}, {"a": "b" * 4096}, {"a": "b" * 4097}]
    if schema.get("type") in ("integer", "number"):
        found += _NUMBERS
    return found


def _fitting(spec: JSON, path: _Path) -> JSON:
    """Return the spec of an AuditRecord with the type that a field asks for."""
    types = {field: name for name, field in RESULT_OF.items()}
    if not path or path[0] not in types or "type" not in spec:
        return spec
    others = {name: value for name, value in spec.items() if name not in types}
    return others | {"type": types[path[0]], path[0]: {}}


def _changed(spec: JSON, changes: list[tuple[_Path, JSON]]) -> JSON:
    """Return a copy with fields set; what is missing on the way to a field is made."""
    root = {"": deepcopy(spec)}
    for path, value in changes:
        holder: JSON = root
        for name, following in zip(("", *path), (*path, None), strict=True):
            key: Any = int(name) if isinstance(holder, list) else name
            if following is None:
                holder[key] = deepcopy(value)
                break
            missing: JSON = [{}] if following == "0" else {}
            present = holder[key] if isinstance(holder, list) else holder.get(key)
            if not present or not isinstance(present, type(missing)):
                holder[key] = missing
            holder = holder[key]
    return root[""]
