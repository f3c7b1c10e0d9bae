"""What a record says, in a few words for one line of a table."""

from collections.abc import Mapping
from typing import Any, Final

from datastorage.query.records import ArchivedRecord
from datastorage.resources.kinds import ACTION_TRACE

_MAX_CHARACTERS: Final = 160


def outcome_of(record: ArchivedRecord) -> str:
    """Return the phase of an AuditRecord, the status of the execution of an ActionTrace."""
    if record.kind == ACTION_TRACE.kind:
        return _text(_part(record.spec, "execution"), "status")
    return _text(record.spec, "phase")


def target_of(record: ArchivedRecord) -> str:
    """Return the object that it was about."""
    ref = _part(record.spec, "targetRef" if record.kind == ACTION_TRACE.kind else "resourceRef")
    return "/".join(filter(None, (_text(ref, "kind"), _text(ref, "namespace"), _text(ref, "name"))))


def summary_of(record: ArchivedRecord) -> str:
    """Return what was done, and what was said about it."""
    spec = record.spec
    if record.kind == ACTION_TRACE.kind:
        said = [
            _text(_part(spec, "execution"), "error"),
            _text(_part(spec, "effectiveness"), "notes"),
            _text(_part(spec, "model"), "reasoning"),
        ]
        done = _text(spec, "actionType")
    else:
        said = [_text(spec, "errorMessage"), _text(spec, "message")]
        done = _text(spec, "action")
    text = ": ".join(part for part in (done, next((each for each in said if each), "")) if part)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


def _part(parent: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = parent.get(field)
    return value if isinstance(value, Mapping) else {}


def _text(parent: Mapping[str, Any], field: str) -> str:
    value = parent.get(field)
    return value if isinstance(value, str) else ""
