"""Hypothesis strategies for objects that are valid, nearly valid, or not valid at all.

They take valid specs and set single fields, known to the schema or not, to values at and beyond their bounds,
so that every keyword of the definitions is tried on both sides.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from hypothesis import strategies as st

from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, ResourceKind
from harness.strategies import (
    INT64,
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
    "0001-01-01T00:00:00Z",
    "0000-12-31T23:59:00Z",
    "0001-01-01T00:00:59.999999999Z",
    "0001-01-01T00:01:00Z",
    "0000-02-29T00:00:00Z",
    "0000-02-30T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2000-02-29T00:00:00Z",
    "2026-01-01T00:00:00.000000001Z",
    "2026-01-01T00:00:00.000000002Z",
    "2026-01-01T00:00:00.0000000001Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T23:60:00Z",
    "2026-12-31T23:59:60Z",
    "2026-01-01T1:00:00Z",
    "2026-01-01T00:00:00,5Z",
    "2026-01-01T00:00:00.Z",
    "2026-01-01t00:00:00z",
    "2026-01-01 00:00:00Z",
    "2026-01-01T00:00:00+23:59",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00-24:60",
    "2026-01-01T00:00:00+2460",
    "2026-01-01T00:00:00+24:61",
    "9999-12-31T23:59:59.999999999-23:59",
    "2026-01-01T00:00:00Z\n",
    "2026-01-01T00:00:00",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-1-1T00:00:00Z",
    "٢٠٢٦-01-01T00:00:00Z",
    "soon",
    "",
)
_NUMBERS: Final = (
    0,
    -0.0,
    1,
    -1,
    0.5,
    1.0,
    1.5,
    -5.0,
    1e-7,
    1 + 1e-12,
    1.0000001,
    1e15,
    1e17,
    1e300,
    2**31 - 1,
    2**31,
    2.0**31,
    2**53 - 1,
    2.0**53 - 1,
    2**53,
    2.0**53,
    2.0**62,
    2.0**63,
    -(2.0**63),
    INT64 - 1,
    INT64,
    -INT64,
    -INT64 - 1,
    True,
    False,
)
_OTHER: Final[Sequence[JSON]] = (
    None,
    "",
    "a",
    "Remediation",
    [],
    {},
    [None],
    [[]],
    [{}],
    [{"a": 1}],
    {"a": 1},
    {"a": None},
    {"name": "a"},
)

_NAMES: Final = (
    "",
    "a",
    "A",
    "a-b.c",
    "a-",
    "-a",
    "a.",
    ".a",
    "a..b",
    "a.-",
    "a-.b",
    "a_b",
    "a/b",
    "a%b",
    ".",
    "..",
    "1",
    "é",
    "a\n",
    "a" * 63,
    "a" * 64,
    "a" * 58 + "-b",
    "a" * 253,
    "a" * 254,
    ".".join(["a" * 60] * 4),
    "a.b-",
    "ab-",
    "a" * 62 + "-",
)
_KEYS: Final = (
    "",
    "a",
    "A",
    "-a",
    "a_b.c",
    "a/b",
    "A/b",
    "a/",
    "/a",
    "a/b/c",
    "a" * 63,
    "a" * 64,
    "a." * 126 + "a/b",
    "a." * 127 + "a/b",
    "kubernetes.io/a",
    "\u212a",
    "\u0130",
    "É",
    "a b",
    "a\n",
)
_VALUES: Final[Sequence[JSON]] = (
    "",
    "a",
    "a" * 63,
    "a" * 64,
    "-a",
    "a-",
    "a b",
    "é",
    "A_b.c-d",
    "a\n",
    None,
    1,
    True,
    [],
    {},
)
_FINALIZERS: Final = ("orphan", "foregroundDeletion", "a.b/c", "a", "", "/", "A/b", "a b", None, 1)


def objects(kind: ResourceKind, namespace: str) -> st.SearchStrategy[dict[str, JSON]]:
    """Objects to be created in a namespace, about half of which the API server accepts."""
    return st.builds(
        lambda spec, metadata, extra: {
            "apiVersion": API_VERSION,
            "kind": kind.kind,
            "metadata": {"name": "an-object", **metadata, "namespace": namespace},
            "spec": spec,
            **extra,
        },
        specs(kind),
        st.just({}) | metadatas(),
        st.just({}) | st.just({}) | st.just({}) | _extras(kind),
    )


def specs(kind: ResourceKind) -> st.SearchStrategy[JSON]:
    """Valid specs, and valid ones of which a few fields were changed."""
    valid = audit_record_specs() if kind is AUDIT_RECORD else action_trace_specs()
    schema = schema_of(kind, "spec")
    change = st.sampled_from(list(_fields(schema))).flatmap(
        lambda found: st.tuples(st.just(found[0]), _edges(found[1]))
    )
    unknown = st.tuples(_unknown_paths(schema), st.sampled_from(_OTHER))
    changes = st.lists(change, min_size=1, max_size=2) | st.lists(unknown, max_size=1)
    return st.builds(_changed, valid, changes | _against_rules(kind)) | valid


def _against_rules(kind: ResourceKind) -> st.SearchStrategy[list[tuple[_Path, JSON]]]:
    """Changes that the CEL rules of the definitions are about."""
    moments: st.SearchStrategy[JSON] = (
        st.sampled_from(_TIMES[:10]) | st.sampled_from(_TIMES) | times() | st.just([])
    )
    parent: _Path = () if kind is AUDIT_RECORD else ("execution",)
    spans = st.builds(
        lambda start, end: [((*parent, "startTime"), start), ((*parent, "endTime"), end)], moments, moments
    )
    if kind is not AUDIT_RECORD:
        return spans.map(lambda span: [(("execution", "status"), "Executing"), *span])
    results = st.sampled_from(["aiAnalysis", "workflow", "execution"])
    return spans | st.lists(results.map(lambda name: ((name,), {})), min_size=1, max_size=2)


def metadatas() -> st.SearchStrategy[dict[str, JSON]]:
    """Metadata without a namespace, which tests choose, and without a version, which a dry run ignores."""
    optional: dict[str, st.SearchStrategy[JSON]] = {
        "name": st.sampled_from(_NAMES[1:]) | st.sampled_from([1, [], {}]),
        "generateName": st.sampled_from(_NAMES),
        "labels": _entries(st.sampled_from(_VALUES)),
        "annotations": _entries(st.sampled_from([*_VALUES, "a" * 262_142, "é" * 131_071])),
        "ownerReferences": st.lists(_owners(), max_size=3),
        "finalizers": st.lists(st.sampled_from(_FINALIZERS), max_size=2),
        "managedFields": st.lists(_managed(), max_size=2),
        **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), st.sampled_from(_TIMES) | times()),
        **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), st.sampled_from(_NUMBERS)),
        **dict.fromkeys(("selfLink", "uid"), texts()),
    }
    odd = st.sampled_from(sorted(optional.keys() - {"name"} | {"clusterName", "Name"})).flatmap(
        lambda name: st.fixed_dictionaries({name: st.sampled_from(_OTHER)})
    )
    one = st.sampled_from(sorted(optional)).flatmap(
        lambda name: st.fixed_dictionaries({name: optional[name]})
    )
    return one | one | st.builds(lambda left, right: left | right, one, one) | odd


def _entries(values: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
    return st.dictionaries(st.sampled_from(_KEYS), values, max_size=2)


def _extras(kind: ResourceKind) -> st.SearchStrategy[dict[str, JSON]]:
    schema = schema_of(kind, "status")
    paths = st.sampled_from([path for path, _ in _fields(schema)]) | _unknown_paths(schema)
    changes = st.lists(st.tuples(paths, st.sampled_from(_OTHER)), max_size=2)
    statuses = st.builds(_changed, st.just({}), changes) | st.sampled_from(_OTHER)
    return statuses.map(lambda status: {"status": status}) | st.just({"data": {}})


def _owners() -> st.SearchStrategy[JSON]:
    given = st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from(["v1", "apps/v1"]),
            "kind": st.sampled_from(["Pod", "Event"]),
            "name": st.just("a"),
            "uid": st.just("u"),
        },
        optional={"controller": st.sampled_from([True, False, None]), "blockOwnerDeletion": st.booleans()},
    )
    odd = st.fixed_dictionaries(
        {"apiVersion": _or_nothing("v1", "/v1", "apps/", "/", "a/b/c"), "kind": _or_nothing("Pod", "Event")},
        optional={
            "name": _or_nothing("a"),
            "uid": _or_nothing("u"),
            "controller": _or_nothing("a", 1),
            "more": st.just(1),
        },
    )
    return given | given | odd | st.sampled_from(_OTHER)


def _or_nothing(*values: JSON) -> st.SearchStrategy[JSON]:
    return st.sampled_from([*values, "", None])


def _managed() -> st.SearchStrategy[JSON]:
    # The operation is a right one: the API server keeps one entry and refuses another by its whole content.
    return st.fixed_dictionaries(
        {"operation": st.sampled_from(["Apply", "Update"])},
        optional={
            "manager": st.sampled_from(["kubectl", "", None]),
            "apiVersion": st.just(API_VERSION),
            "time": st.sampled_from(_TIMES),
            "fieldsType": st.just("FieldsV1"),
            "fieldsV1": json_values(4),
            "subresource": st.sampled_from(["", "status"]),
            "fields": st.just({}),
        },
    )


def _fields(schema: Mapping[str, Any], path: _Path = ()) -> Iterator[tuple[_Path, Mapping[str, Any]]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from _fields(sub, (*path, name))
    if "items" in schema:
        yield from _fields(schema["items"], (*path, "0"))


def _unknown_paths(schema: Mapping[str, Any]) -> st.SearchStrategy[_Path]:
    holders = [path for path, sub in _fields(schema) if "properties" in sub]
    return st.sampled_from(holders).map(lambda path: (*path, "a~colour/s"))


def _edges(schema: Mapping[str, Any]) -> st.SearchStrategy[JSON]:
    """Values at and beyond the bounds of a schema, and of other types."""
    found: list[st.SearchStrategy[JSON]] = []
    if schema.get("format") == "date-time":
        found.append(st.sampled_from(_TIMES))
    if "maxLength" in schema:
        sizes = st.sampled_from([schema["maxLength"] + more for more in (-1, 0, 1)])
        found.append(st.builds(lambda size, character: character * size, sizes, st.sampled_from("aé🧨\0")))
    if "enum" in schema:
        found.append(st.sampled_from([*schema["enum"], schema["enum"][0].lower()]))
    if "maxItems" in schema:
        item = _least(schema["items"])
        found.append(st.sampled_from([[item] * (schema["maxItems"] + more) for more in (0, 1)]))
    if "maxProperties" in schema:
        most = {str(number): "" for number in range(schema["maxProperties"])}
        found.append(
            st.sampled_from([most, most | {"a": ""}, most | {"a": None}, {"a": 1}, {"a": "b" * 4097}])
        )
    if schema.get("type") in ("integer", "number"):
        found.append(st.sampled_from(_NUMBERS))
    return st.one_of([*found, *found, st.sampled_from(_OTHER)])


def _least(schema: Mapping[str, Any]) -> JSON:
    """Return the least object that a schema accepts, of texts alone."""
    return dict.fromkeys(schema.get("required", ()), "a")


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
