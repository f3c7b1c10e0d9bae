"""The API server's decision about the creation of an object, made here.

`verdict` decides as a create with ``fieldValidation=Strict`` does. It can't know what rests on the cluster:
whether the namespace exists, whether the name is free, quotas, and admission policies. Three things differ by
purpose. The kind, the version and the name may be left out. The namespace must be given, since there is no
other place for it. And an entry of ``managedFields`` is checked for its types alone: the API server also
refuses a few entries that no client writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from datastorage.resources.crd import crd
from datastorage.resources.kinds import API_VERSION, ResourceKind
from datastorage.resources.validation.metadata import check_metadata
from datastorage.resources.validation.problems import Code, FieldProblem, Problems, TooManyProblemsError
from datastorage.resources.validation.schemacheck import Check, Findings, Schema, compiled, unknown_fields
from datastorage.resources.validation.served import as_served
from datastorage.resources.validation.size import MAX_OBJECT_BYTES, object_bytes

_ROOT_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about an object.

    ``problems`` are the reasons against it, at most MAX_PROBLEMS; none means that it is accepted. ``spec`` is
    then the spec as the API server serves it: without the nulls that count as left out, and with its numbers.
    """

    problems: list[FieldProblem]
    spec: Mapping[str, Any]


def validated(kind: ResourceKind, body: Any) -> list[FieldProblem]:
    """Return the reasons why the API server would refuse to create an object; none if it would accept it."""
    return verdict(kind, body).problems


def verdict(kind: ResourceKind, body: Any) -> Verdict:
    """Decide whether the API server would create an object from a body of parsed JSON.

    The first call of a kind compiles its definition, which takes some milliseconds.
    """
    found = Findings()
    try:
        spec = _checked(kind, body, found)
    except TooManyProblemsError:
        spec = {}
    return Verdict(found.problems, spec)


def _checked(kind: ResourceKind, body: Any, found: Findings) -> Any:
    problems, definition = found.problems, _definition(kind)
    if not isinstance(body, dict):
        problems.wrong_type("", "an object", body)
        return {}
    for name in body:
        if name not in _ROOT_FIELDS:
            problems.unknown("", name)
    for name, wanted in (("apiVersion", API_VERSION), ("kind", kind.kind)):
        if name in body and body[name] != wanted:
            problems.add(f"/{name}", f"must be {wanted}", Code.NOT_ALLOWED)
    check_metadata(body.get("metadata"), problems)
    unknown_fields(definition.status, body.get("status"), "/status", problems)
    root = definition.check({"spec": body["spec"]} if "spec" in body else {}, "", found)
    if problems:
        return {}
    # The rules rely on values of the right types, so they are not evaluated beside other problems.
    for rule, value, pointer in found.rules:
        if not rule.holds(value):
            problems.add(pointer + rule.pointer, rule.message, Code.RULE_BROKEN)
    _check_size(body, root, problems)
    return as_served(root["spec"])


def _check_size(body: Mapping[str, Any], root: Mapping[str, Any], problems: Problems) -> None:
    # The API server leaves the managed fields out when an object is too large with them.
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    try:
        size = object_bytes({"metadata": metadata, **root})
    except RecursionError:
        problems.add("", "must not be nested deeper than this program can write", Code.TOO_LARGE)
        return
    if size > MAX_OBJECT_BYTES:
        problems.add("", f"must have at most {MAX_OBJECT_BYTES} bytes, not {size}", Code.TOO_LARGE)


@dataclass(frozen=True, slots=True)
class _Definition:
    check: Check
    status: Schema


@cache
def _definition(kind: ResourceKind) -> _Definition:
    [version] = crd(kind)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    properties = dict(schema["properties"])
    # The status is dropped at creation, and the metadata has rules of its own that are in no schema.
    status = properties.pop("status")
    for name in ("apiVersion", "kind", "metadata"):
        del properties[name]
    return _Definition(compiled({**schema, "properties": properties}), status)
