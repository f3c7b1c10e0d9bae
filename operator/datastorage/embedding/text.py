"""The text of a record that is embedded: the words that carry its meaning, and no identifiers.

Built here alone, so that equal events have equal texts, share one vector, and are found by a question in the
same words. What tells one event from the next without meaning anything (identifiers, times, addresses,
generated names) is left out; see ``scrub``.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from datastorage.embedding.scrub import clip, is_meaningful, scrub, scrub_name, tidy

MAX_CHARACTERS: Final = 2000
"""Characters of an embedded text: models read a few hundred words and average longer texts into nothing."""

CAMEL_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""The places between "OOM" and "Killed", "Pull" and "Back"."""

# So that a long message leaves room for the error, and a long reasoning for the outcome.
_MAX_FIELD_CHARACTERS: Final = 1000
_MAX_NAME_CHARACTERS: Final = 253

_BETWEEN_WORDS: Final = re.compile(r"[-_./:]+")

_Spec = Mapping[str, Any]


def embedding_text(kind: str, spec: _Spec) -> str:
    """Return the text to embed for an object of this kind, or nothing when the object says nothing.

    Never raises: what is not of the expected type is left out.
    """
    says = _SAYS.get(kind)
    if says is None or not isinstance(spec, Mapping):
        return ""
    sentences = [sentence for sentence in says(spec) if sentence]
    if not sentences:
        return ""
    # A message that only repeats the error says nothing new.
    return clip(". ".join(dict.fromkeys(sentences)), MAX_CHARACTERS)


def query_text(text: str) -> str:
    """Return a person's question as it is embedded, or nothing when it has no words.

    What records leave out, a question leaves out too, unless it is all there is.
    """
    for words in (scrub(text), tidy(text)):
        if is_meaningful(words):
            return clip(words, MAX_CHARACTERS)
    return ""


def text_hash(text: str) -> bytes:
    """Return what identifies a text: SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _audit_record(spec: _Spec) -> Iterator[str]:
    said = [
        _words(spec.get("action")),
        _target(spec.get("resourceRef")),
        _sentence(spec.get("message")),
        _sentence(spec.get("errorMessage")),
    ]
    if any(said):  # type and phase alone are on every record, and mean nothing
        action, *rest = said
        yield action
        yield f"{_words(spec.get('type'))} {_words(spec.get('phase')).lower()}".strip()
        yield from rest


def _action_trace(spec: _Spec) -> Iterator[str]:
    alert, model = _mapping(spec.get("alert")), _mapping(spec.get("model"))
    execution, effectiveness = _mapping(spec.get("execution")), _mapping(spec.get("effectiveness"))
    said = [
        _words(spec.get("actionType")),
        _target(spec.get("targetRef")),
        _words(alert.get("name")),
        _sentence(model.get("reasoning")),
        _sentence(execution.get("error")),
        _sentence(effectiveness.get("notes")),
    ]
    if any(said):
        action, *rest = said
        yield action
        yield _words(execution.get("status")).lower()
        yield from rest


_SAYS: Final[Mapping[str, Callable[[_Spec], Iterator[str]]]] = {
    "AuditRecord": _audit_record,
    "ActionTrace": _action_trace,
}


def _mapping(value: Any) -> _Spec:
    return value if isinstance(value, Mapping) else {}


def _sentence(value: Any) -> str:
    """Return a free text without what tells it from its like."""
    if not isinstance(value, str):
        return ""
    words = scrub(value)
    return clip(words, _MAX_FIELD_CHARACTERS).rstrip(" .") if is_meaningful(words) else ""


def _words(value: Any) -> str:
    """Return a name as words: "scale_deployment", "KubePodCrashLooping"."""
    if not isinstance(value, str):
        return ""
    words = tidy(CAMEL_HUMP.sub(" ", _BETWEEN_WORDS.sub(" ", value[:_MAX_NAME_CHARACTERS])))
    return words if is_meaningful(words) else ""


def _target(value: Any) -> str:
    """Return the kind, name and namespace of an object as words."""
    ref = _mapping(value)
    kind, where = _words(ref.get("kind")), _words(ref.get("namespace"))
    what = f"{kind} {_name(ref.get('name'), pod=kind == 'Pod')}".strip()
    return f"{what} in {where}" if what and where else what or where


def _name(value: Any, *, pod: bool) -> str:
    if not isinstance(value, str):
        return ""
    return _words(scrub_name(value[:_MAX_NAME_CHARACTERS], of_pod=pod))
