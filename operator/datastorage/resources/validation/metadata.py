"""Checks the metadata of a new object: the fields and types of ObjectMeta, and the rules for their values.

The system's own fields (uid, generation, creationTimestamp and others) only have to be of their type, because
the API server overwrites them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from datastorage.resources.validation.instants import nanoseconds_of
from datastorage.resources.validation.names import (
    is_annotation_key,
    is_dns_label,
    is_dns_subdomain,
    is_label_value,
    is_name_prefix,
    is_qualified_name,
    makes_name,
)
from datastorage.resources.validation.problems import Code, Problems, escaped
from datastorage.resources.validation.served import whole

_Check = Callable[[Any, str, Problems], None]

_INT64: Final = 2**63
_MAX_ANNOTATIONS: Final = 256 * 1024  # bytes of all keys and values
_VERSION_DIGITS: Final = 20  # of the greatest number of 64 bits
_CONFLICTING_FINALIZERS: Final = frozenset({"orphan", "foregroundDeletion"})
_EVENT: Final = ("", "v1", "Event")

_SUBDOMAIN: Final = (
    "at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each label"
)
_LABEL_VALUE: Final = "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
_QUALIFIED: Final = f"{_LABEL_VALUE}, after an optional DNS subdomain and '/'"


def check_metadata(metadata: Any, problems: Problems) -> None:
    """Add the problems of an object's metadata, of which the namespace must be given."""
    pointer = "/metadata"
    if metadata is not None and not isinstance(metadata, dict):
        problems.wrong_type(pointer, "an object", metadata)
        return
    given = metadata or {}
    before = len(problems)
    _object_of(_OBJECT_META)(given, pointer, problems)
    if len(problems) > before:
        return
    _check_names(given, pointer, problems)
    _check_labels(given, pointer, problems)
    _check_annotations(given, f"{pointer}/annotations", problems)
    _check_owners(given.get("ownerReferences") or (), f"{pointer}/ownerReferences", problems)
    _check_finalizers(given.get("finalizers") or (), f"{pointer}/finalizers", problems)
    _check_version(given.get("resourceVersion"), f"{pointer}/resourceVersion", problems)


def _check_names(given: Mapping[str, Any], pointer: str, problems: Problems) -> None:
    name, prefix, namespace = given.get("name"), given.get("generateName"), given.get("namespace")
    if name and not is_dns_subdomain(name):
        problems.add(f"{pointer}/name", f"must be {_SUBDOMAIN}", Code.BAD_FORMAT)
    if prefix and not (is_name_prefix(prefix) if name else makes_name(prefix)):
        problems.add(f"{pointer}/generateName", f"must begin {_SUBDOMAIN}", Code.BAD_FORMAT)
    if not namespace:
        problems.add(f"{pointer}/namespace", "must be given", Code.REQUIRED)
    elif not is_dns_label(namespace):
        detail = "must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"
        problems.add(f"{pointer}/namespace", detail, Code.BAD_FORMAT)


def _check_labels(given: Mapping[str, Any], pointer: str, problems: Problems) -> None:
    for key, value in (given.get("labels") or {}).items():
        place = f"{pointer}/labels/{escaped(key)}"
        if not is_qualified_name(key):
            problems.add(place, f"the key must be {_QUALIFIED}", Code.BAD_FORMAT)
        if not is_label_value(value or ""):
            problems.add(place, f"the value must be empty or {_LABEL_VALUE}", Code.BAD_FORMAT)


def _check_annotations(given: Mapping[str, Any], pointer: str, problems: Problems) -> None:
    size = 0
    for key, value in (given.get("annotations") or {}).items():
        size += len(key.encode("utf-8", "replace")) + len((value or "").encode("utf-8", "replace"))
        if not is_annotation_key(key):
            detail = f"the key must be {_QUALIFIED}; case does not matter"
            problems.add(f"{pointer}/{escaped(key)}", detail, Code.BAD_FORMAT)
    if size > _MAX_ANNOTATIONS:
        detail = f"keys and values together must have at most {_MAX_ANNOTATIONS} bytes, not {size}"
        problems.add(pointer, detail, Code.TOO_LONG)


def _check_owners(owners: Any, pointer: str, problems: Problems) -> None:
    controllers = set()
    for index, owner in enumerate(owners):
        entry, place = owner or {}, f"{pointer}/{index}"
        version = entry.get("apiVersion") or ""
        group, _, number = version.rpartition("/")
        if not number or "/" in group:
            detail = "must be a version such as v1, with a group and '/' before it or without"
            problems.add(f"{place}/apiVersion", detail, Code.BAD_FORMAT)
        for field in ("kind", "name", "uid"):
            if not entry.get(field):
                problems.add(f"{place}/{field}", "must be given", Code.REQUIRED)
        if (group, number, entry.get("kind")) == _EVENT:
            problems.add(place, "an Event can't be an owner", Code.NOT_ALLOWED)
        if entry.get("controller"):
            # The API server drops an entry that is there twice: only two different ones are two controllers.
            controllers.add(
                frozenset((field, value) for field, value in entry.items() if value not in (None, ""))
            )
    if len(controllers) > 1:
        problems.add(pointer, "only one owner may be the controller", Code.NOT_ALLOWED)


def _check_finalizers(finalizers: Any, pointer: str, problems: Problems) -> None:
    for index, finalizer in enumerate(finalizers):
        if not is_qualified_name(finalizer or ""):
            problems.add(f"{pointer}/{index}", f"must be {_QUALIFIED}", Code.BAD_FORMAT)
    if _CONFLICTING_FINALIZERS.issubset(finalizers):
        problems.add(pointer, "orphan and foregroundDeletion exclude each other", Code.NOT_ALLOWED)


def _check_version(version: str | None, pointer: str, problems: Problems) -> None:
    # The API server reads a version that is not a number of 64 bits as none at all.
    digits = version.lstrip("0") if version and version.isascii() and version.isdigit() else ""
    if digits and len(digits) <= _VERSION_DIGITS and int(digits) < 2 * _INT64:
        problems.add(pointer, "must not be given for a new object", Code.NOT_ALLOWED)


def _text(value: Any, pointer: str, problems: Problems) -> None:
    if not isinstance(value, str):
        problems.wrong_type(pointer, "a string", value)


def _boolean(value: Any, pointer: str, problems: Problems) -> None:
    if not isinstance(value, bool):
        problems.wrong_type(pointer, "a boolean", value)


def _integer(value: Any, pointer: str, problems: Problems) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        problems.wrong_type(pointer, "an integer", value)
        return
    if isinstance(value, float) and not value.is_integer():
        problems.add(pointer, "must be an integer", Code.WRONG_TYPE)
        return
    # The API server writes a float as text and reads that as an integer.
    number = whole(value) if isinstance(value, float) else value
    if not -_INT64 <= number < _INT64:
        problems.add(pointer, "must be an integer of 64 bits", Code.OUT_OF_RANGE)


def _time(value: Any, pointer: str, problems: Problems) -> None:
    if not isinstance(value, str) or nanoseconds_of(value) is None:
        problems.add(pointer, "must be a time such as 2026-03-01T10:00:00Z", Code.BAD_FORMAT)


def _anything(value: Any, pointer: str, problems: Problems) -> None:
    del value, pointer, problems


def _texts_by_key(value: Any, pointer: str, problems: Problems) -> None:
    if not isinstance(value, dict):
        problems.wrong_type(pointer, "an object", value)
        return
    for key, item in value.items():
        if item is not None:
            _text(item, f"{pointer}/{escaped(key)}", problems)


def _list_of(check: _Check) -> _Check:
    def check_items(value: Any, pointer: str, problems: Problems) -> None:
        if not isinstance(value, list):
            problems.wrong_type(pointer, "an array", value)
            return
        for index, item in enumerate(value):
            if item is not None:
                check(item, f"{pointer}/{index}", problems)

    return check_items


def _object_of(fields: Mapping[str, _Check]) -> _Check:
    def check_fields(value: Any, pointer: str, problems: Problems) -> None:
        if not isinstance(value, dict):
            problems.wrong_type(pointer, "an object", value)
            return
        for name, item in value.items():
            check = fields.get(name)
            if check is None:
                problems.unknown(pointer, name)
            elif item is not None:
                check(item, f"{pointer}/{name}", problems)

    return check_fields


_OWNER: Final[Mapping[str, _Check]] = {
    "apiVersion": _text,
    "kind": _text,
    "name": _text,
    "uid": _text,
    "controller": _boolean,
    "blockOwnerDeletion": _boolean,
}
_MANAGED: Final[Mapping[str, _Check]] = {
    "manager": _text,
    "operation": _text,
    "apiVersion": _text,
    "time": _time,
    "fieldsType": _text,
    "fieldsV1": _anything,
    "subresource": _text,
}
_OBJECT_META: Final[Mapping[str, _Check]] = {
    "name": _text,
    "generateName": _text,
    "namespace": _text,
    "selfLink": _text,
    "uid": _text,
    "resourceVersion": _text,
    "generation": _integer,
    "creationTimestamp": _time,
    "deletionTimestamp": _time,
    "deletionGracePeriodSeconds": _integer,
    "labels": _texts_by_key,
    "annotations": _texts_by_key,
    "ownerReferences": _list_of(_object_of(_OWNER)),
    "finalizers": _list_of(_text),
    "managedFields": _list_of(_object_of(_MANAGED)),
}
