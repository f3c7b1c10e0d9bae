"""The earlier actions on an object, and whether they helped: for people, and for the prompt of an AI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.resources.reading.fields import mapping_in, string_in
from datastorage.resources.reading.kindreading import Result
from datastorage.resources.reading.registry import reading_named

# The sentences of a page of records fit into a prompt. The record has the whole texts.
_MAX_REMARK_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One record about the object."""

    record: ArchivedRecord
    """The record. Its object need not be there: ``facts`` has what a history shows of it."""
    facts: Mapping[str, Any]
    """The action and its outcome, with the field names of the interfaces."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON, with the field names of the interfaces."""
        outline = {name: value for name, value in self.record.as_json().items() if name != "record"}
        return {**outline, **self.facts}


def entry_of(record: ArchivedRecord) -> HistoryEntry:
    """Return a record, which has its object, as an entry."""
    reading, spec = reading_named(record.kind), record.spec
    result = reading.result(spec)
    target = mapping_in(spec, reading.target_field)
    facts = {
        "correlationID": string_in(spec, "correlationID") or None,
        "target": {name: string_in(target, name) or None for name in ("kind", "namespace", "name")},
        "action": reading.done(spec) or None,
        "outcome": reading.outcome(spec) or None,
        "success": result.success,
        "effectivenessScore": result.score,
        "error": result.error or None,
        "model": result.model or None,
        "modelConfidence": result.confidence,
        "summary": reading.in_brief(spec),
        "sentence": _sentence_of(record, result),
    }
    return HistoryEntry(record, facts)


@dataclass(frozen=True, slots=True)
class TargetHistory:
    """A page of what was done to an object, the newest first."""

    entries: tuple[HistoryEntry, ...]
    cursor: str | None
    """The cursor of the next page; None on the last."""


def _sentence_of(record: ArchivedRecord, result: Result) -> str:
    """Return what was done, how it ended, whether it helped, and which model chose it."""
    reading, spec = reading_named(record.kind), record.spec
    action, target = _short(reading.done(spec)) or "an action", _short(reading.target(spec))
    outcome = _short(reading.outcome(spec)) or "outcome unknown"
    words = [f"{record.created_at:%Y-%m-%d %H:%M} UTC: {action} on {target}: {outcome}."]
    if result.error:
        words.append(f"Error: {_short(result.error)}.")
    if result.success is not None:
        words.append(
            "It had the intended effect." if result.success else "It did not have the intended effect."
        )
    if result.score is not None:
        notes = f" ({_short(result.notes)})" if result.notes else ""
        words.append(f"Effectiveness: {result.score:g} of 1{notes}.")
    if not result.error and not result.notes:
        remark = next((remark for remark in reading.remarks(spec) if remark), "")
        words += [f"Remark: {_short(remark)}."] if remark else []
    if result.model:
        sure = "" if result.confidence is None else f" (confidence {result.confidence:g})"
        words.append(f"Model: {_short(result.model)}{sure}.")
    return " ".join(words)


def _short(text: str) -> str:
    # A text may be anything: on one line, it can't pass for another entry.
    line = " ".join(text[: 4 * _MAX_REMARK_CHARACTERS].split()).rstrip(".")
    return line if len(line) <= _MAX_REMARK_CHARACTERS else f"{line[: _MAX_REMARK_CHARACTERS - 1]}…"
