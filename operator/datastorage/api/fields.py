"""The parameter ``fields``: what the items of a list, or of a timeline, have of the content of records.

A field is a path of names with dots between them. It leads through objects only: a list inside a record comes
as a whole, and so does an object whose names have dots of their own, such as the labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datastorage.errors import InvalidQueryError
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.listedrecord import ListedRecord
from datastorage.query.timeline import TimelineEntry
from datastorage.resources.models.action_trace import ActionTraceSpec
from datastorage.resources.models.audit_record import AuditRecordSpec

MAX_CHARACTERS: Final = 1_000
"""Characters of the parameter."""
_MAX_FIELDS: Final = 32
_MAX_NAMES: Final = 8
_OF_RECORD: Final = ("apiVersion", "kind", "metadata", "spec")
_OF_SPEC: Final = tuple(
    sorted(
        {
            field.alias or name
            for spec in (AuditRecordSpec, ActionTraceSpec)
            for name, field in spec.model_fields.items()
        }
    )
)

_Mask = dict[str, Any]
"""The wanted members of an object, each with the mask of its own; an empty mask means all of it."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that are wanted."""

    intact: bool = False
    record: _Mask | None = None
    """None if nothing of the record is wanted."""

    @property
    def need_content(self) -> bool:
        """Whether the content of each record has to be read."""
        return self.intact or self.record is not None

    def of(self, listed: ListedRecord) -> dict[str, Any]:
        """Return the item of a list, as JSON."""
        item = listed.as_json()
        if listed.record is not None and self.intact:
            item["intact"] = listed.record.intact
        return item if listed.record is None else {**item, **self._content(listed.record)}

    def of_entry(self, entry: TimelineEntry) -> dict[str, Any]:
        """Return the entry of a timeline, as JSON."""
        item = entry.as_json()
        del item["record"]
        return {**item, **self._content(entry.record)}

    def _content(self, record: ArchivedRecord) -> dict[str, Any]:
        if self.record is None:
            return {}
        return {"record": _masked(record.object, self.record) if record.object else None}


def parse_fields(text: str | None) -> Fields:
    """Return the fields that a parameter names. Raises InvalidQueryError, which lists what is known."""
    if text is None:
        return Fields()
    names = text.split(",")
    if len(text) > MAX_CHARACTERS or len(names) > _MAX_FIELDS:
        raise InvalidQueryError(
            f"fields has more than {_MAX_FIELDS} fields or {MAX_CHARACTERS:,} characters: ask for record"
        )
    paths = [name.strip().split(".") for name in names]
    for path in paths:
        _check(path)
    wanted = [path[1:] for path in paths if path[0] == "record"]
    return Fields(
        intact=["intact"] in paths or bool(wanted),
        record=_mask(wanted) if wanted else None,
    )


def _check(path: list[str]) -> None:
    given = ".".join(path)[:60]
    if path != ["intact"] and path[0] != "record":
        raise InvalidQueryError(
            f"fields: {given!r} is not known: give intact, record, or a field of the record such as "
            "record.spec.message"
        )
    if len(path) > _MAX_NAMES or "" in path:
        raise InvalidQueryError(f"fields: {given!r} must have 1 to {_MAX_NAMES} names with dots between them")
    if len(path) > 1 and path[1] not in _OF_RECORD:
        raise InvalidQueryError(f"fields: {given!r} is not known: record has {', '.join(_OF_RECORD)}")
    if len(path) > 2 and path[1] == "spec" and path[2] not in _OF_SPEC:
        raise InvalidQueryError(f"fields: {given!r} is not known: record.spec has {', '.join(_OF_SPEC)}")


def _mask(paths: list[list[str]]) -> _Mask:
    """Return one mask of all paths: where one ends, everything is wanted, whatever the others say."""
    if [] in paths:
        return {}
    names = dict.fromkeys(path[0] for path in paths)
    return {name: _mask([path[1:] for path in paths if path[0] == name]) for name in names}


def _masked(value: Mapping[str, Any], mask: _Mask) -> Mapping[str, Any]:
    if not mask:
        return value
    found: dict[str, Any] = {}
    for name, inner in mask.items():
        if name in value and (not inner or isinstance(value[name], Mapping)):
            found[name] = _masked(value[name], inner) if inner else value[name]
    return found
