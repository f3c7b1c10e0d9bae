"""The labelled set: records of a remediation platform's archive, questions, and which records answer which.

It is read from records.jsonl and questions.jsonl, one JSON object per line. A fault makes the whole set
refused: a wrong label would be measured as a wrong search.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from benchmarks.errors import BenchmarkError
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.models.action_trace import ActionTraceSpec
from datastorage.resources.models.audit_record import AuditRecordSpec

_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)

RECORDS: Final = Path(__file__).with_name("records.jsonl")
QUESTIONS: Final = Path(__file__).with_name("questions.jsonl")

HELPFUL: Final = 1
ANSWERS: Final = 2

_SPECS: Final[Mapping[str, type[BaseModel]]] = {
    AUDIT_RECORD.kind: AuditRecordSpec,
    ACTION_TRACE.kind: ActionTraceSpec,
}


class DatasetError(BenchmarkError):
    """The labelled set has a fault. The message names the file and the line."""


class Part(StrEnum):
    """The parts of the set. Figures of the two are not comparable: each part was made in its own way.

    Means over both say how good the search is on the whole set, and nothing of what differs between them.
    """

    FIRST = "first"
    """Written together with the first 370 records, and pooled over the results of searches."""
    SECOND = "second"
    """Written later, by somebody who had not seen how the search works, and not pooled."""


class QuestionClass(StrEnum):
    """What is asked of the search. A question that fits several classes is in the one it was written for."""

    KEYWORD = "keyword"
    """Words that the answers have too, or most of them."""
    IDENTIFIER = "identifier"
    """An exact token or a quoted phrase: an address, a digest or its beginning, a code, a path, a commit."""
    PARAPHRASE = "paraphrase"
    """Shares no content word with the spec of any of its records."""
    OUTCOME = "outcome"
    """Asks what helped, what failed, or how something ended."""
    NEGATIVE = "negative"
    """Has words that also occur in records which mean something else."""
    LANGUAGE = "language"
    """Is not in English, or is about records that are not."""
    TYPO = "typo"
    """Has words that are misspelled."""
    NEGATION = "negation"
    """Asks for what did not happen, or leaves out the records that have a word (`-word`)."""
    FIELD = "field"
    """Asks for what is only in a field apart from the texts, such as details, parameters, labels or actor."""
    INCIDENT = "incident"
    """Is answered by the steps of one incident, which share a correlationID."""


@dataclass(frozen=True)
class LabelledRecord:
    """One custom resource. The id is for labels alone and does not occur in the resource."""

    id: str
    kind: str
    namespace: str
    name: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """A question as somebody would type it, and the grades of the records that are worth finding, by id."""

    id: str
    part: Part
    question_class: QuestionClass
    text: str
    relevant: Mapping[str, int]


def load_records(path: Path = RECORDS) -> tuple[LabelledRecord, ...]:
    """Return the records. Raises DatasetError when one is not valid, or occurs twice."""
    records: list[LabelledRecord] = []
    ids: set[str] = set()
    objects: set[tuple[str, str, str]] = set()
    for place, fields in _lines(path, {"id": str, "kind": str, "namespace": str, "name": str, "spec": dict}):
        record = LabelledRecord(**fields)
        _check_spec(place, record)
        _add(place, ids, record.id)
        _add(place, objects, (record.kind, record.namespace, record.name))
        records.append(record)
    return tuple(records)


def load_questions(records: Sequence[LabelledRecord], path: Path = QUESTIONS) -> tuple[Question, ...]:
    """Return the questions about the records. Raises DatasetError when one is not valid, or occurs twice."""
    known = {record.id for record in records}
    questions: list[Question] = []
    ids: set[str] = set()
    texts: set[str] = set()
    for place, fields in _lines(path, {"id": str, "part": str, "class": str, "text": str, "relevant": dict}):
        question = Question(
            id=fields["id"],
            part=_word(place, "part", Part, fields["part"]),
            question_class=_word(place, "class", QuestionClass, fields["class"]),
            text=fields["text"],
            relevant=fields["relevant"],
        )
        _check_labels(place, question, known)
        _add(place, ids, question.id)
        _add(place, texts, question.text.strip().lower())
        questions.append(question)
    return tuple(questions)


def _lines(path: Path, fields: Mapping[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place and its object, which has exactly these fields, none of them empty."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        place = f"{path.name}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{place}: not JSON: {error}") from error
        if not isinstance(value, dict) or value.keys() != fields.keys():
            raise DatasetError(f"{place}: must be an object with {', '.join(fields)} and nothing else")
        for name, kind in fields.items():
            if not isinstance(value[name], kind) or not value[name]:
                raise DatasetError(f"{place}: {name} must be a {kind.__name__}, not empty")
        yield place, value


def _word(place: str, field: str, words: type[_Word], value: str) -> _Word:
    try:
        return words(value)
    except ValueError as error:
        raise DatasetError(f"{place}: {field} must be one of {', '.join(words)}") from error


def _check_spec(place: str, record: LabelledRecord) -> None:
    model = _SPECS.get(record.kind)
    if model is None:
        raise DatasetError(f"{place}: kind must be one of {', '.join(_SPECS)}")
    try:
        model.model_validate(record.spec)
    except ValidationError as error:
        raise DatasetError(f"{place}: {record.id}: {error}") from error


def _check_labels(place: str, question: Question, known: set[str]) -> None:
    if unknown := question.relevant.keys() - known:
        raise DatasetError(f"{place}: {question.id} names unknown records: {', '.join(sorted(unknown))}")
    for record, grade in question.relevant.items():
        if type(grade) is not int or grade not in (HELPFUL, ANSWERS):
            raise DatasetError(
                f"{place}: {question.id}: the grade of {record} must be {HELPFUL} or {ANSWERS}"
            )


def _add(place: str, seen: set[_T], value: _T) -> None:
    if value in seen:
        raise DatasetError(f"{place}: {value} occurs twice")
    seen.add(value)
