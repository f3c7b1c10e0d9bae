"""The labelled set is valid, varied, and refused when it is not."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search.dataset import (
    ANSWERS,
    HELPFUL,
    DatasetError,
    LabelledRecord,
    Part,
    Question,
    QuestionClass,
    load_questions,
    load_records,
)
from datastorage.resources.reading.registry import reading_named

# Words of a question that carry no meaning of their own.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about after again all an and any are as at be because been before but by can could did do does for
    from had has have how i in is it its no not of on once or our out over s so t that the their then
    there this to too up us was we were what when which who why will with without
""",
    )
)
_ENDINGS = re.compile(r"(?:ing|ion|ed|es|er|ly|s)$")

RECORD: dict[str, Any] = {
    "id": "oom-1",
    "kind": "AuditRecord",
    "namespace": "payments",
    "name": "rr-1-analysis",
    "spec": {"type": "Remediation", "action": "close", "phase": "Completed", "correlationID": "rr-1"},
}
QUESTION: dict[str, Any] = {
    "id": "q-1",
    "part": "first",
    "class": "keyword",
    "text": "out of memory",
    "relevant": {"oom-1": 2},
}


@pytest.fixture(scope="module")
def records() -> tuple[LabelledRecord, ...]:
    return load_records()


@pytest.fixture(scope="module")
def questions(records: tuple[LabelledRecord, ...]) -> tuple[Question, ...]:
    return load_questions(records)


def test_there_is_enough_of_everything(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    kinds = Counter(record.kind for record in records)
    types = Counter(record.spec.get("type") for record in records)
    assert len(records) >= 480
    assert kinds["ActionTrace"] >= 60
    assert min(types[name] for name in ("Remediation", "AIAnalysis", "Workflow", "Execution")) >= 10
    assert len({record.namespace for record in records}) >= 12
    assert max(len(question.relevant) for question in questions) <= 16
    assert sum(len(question.relevant) == 1 for question in questions) >= 10


def test_records_cover_success_and_failure(records: tuple[LabelledRecord, ...]) -> None:
    phases = Counter(record.spec.get("phase") for record in records)
    outcomes = Counter((record.spec.get("execution") or {}).get("status") for record in records)
    assert min(phases["Completed"], phases["Failed"]) >= 20
    assert min(outcomes["Completed"], outcomes["Failed"]) >= 10


def test_no_two_records_say_the_same(records: tuple[LabelledRecord, ...]) -> None:
    texts = Counter(reading_named(record.kind).text(record.spec).text for record in records)
    assert "" not in texts
    assert [text for text, count in texts.items() if count > 1] == []


def test_the_api_server_would_take_the_records(records: tuple[LabelledRecord, ...]) -> None:
    """The rules that the models leave to CEL: the result fits the type, and no end is before its start."""
    results = {"AIAnalysis": "aiAnalysis", "Workflow": "workflow", "Execution": "execution"}
    for record in records:
        steps = [record.spec]
        if record.kind == "AuditRecord":
            given = {result for result in results.values() if result in record.spec}
            assert given <= {results.get(record.spec["type"])}, record.id
        else:
            steps.append(record.spec["execution"])
        # The times are all written alike, in UTC, and so compare as texts.
        assert all(step.get("startTime", "") <= step.get("endTime", "9999") for step in steps), record.id


def test_ids_do_not_occur_in_the_records(records: tuple[LabelledRecord, ...]) -> None:
    for record in records:
        assert record.id not in json.dumps([record.namespace, record.name, record.spec]), record.id


def test_every_question_has_an_answer(questions: tuple[Question, ...]) -> None:
    assert [question.id for question in questions if ANSWERS not in question.relevant.values()] == []
    assert {grade for question in questions for grade in question.relevant.values()} == {HELPFUL, ANSWERS}


def test_each_part_has_enough_of_each_class(questions: tuple[Question, ...]) -> None:
    parts = Counter(question.part for question in questions)
    second = Counter(question.question_class for question in questions if question.part is Part.SECOND)
    assert parts[Part.FIRST] == 128
    assert parts[Part.SECOND] >= 160
    assert {name: second[name] for name in QuestionClass if second[name] < 12} == {}


def test_a_paraphrase_shares_no_word_with_its_records(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    words = {record.id: _words(" ".join(_values(record.spec))) for record in records}
    shared = {
        question.id: common
        for question in questions
        if question.question_class is QuestionClass.PARAPHRASE
        and (common := _words(question.text) & set().union(*(words[record] for record in question.relevant)))
    }
    assert shared == {}


def test_no_label_has_a_word_that_the_question_leaves_out(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    texts = {record.id: json.dumps(record.spec, ensure_ascii=False).lower() for record in records}
    excluded = {question.id: re.findall(r"(?<!\S)-(\w+)", question.text.lower()) for question in questions}
    assert sum(map(bool, excluded.values())) >= 8
    for question in questions:
        for word in excluded[question.id]:
            assert any(word in text for text in texts.values()), question.id
            assert not [record for record in question.relevant if word in texts[record]], question.id


def test_a_typo_is_in_no_record(records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]) -> None:
    known = set().union(*(_words(" ".join(_values(record.spec))) for record in records))
    typos = [question for question in questions if question.question_class is QuestionClass.TYPO]
    assert [question.id for question in typos if _words(question.text) <= known] == []


def test_a_question_about_a_field_is_not_answered_by_the_texts(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    """Some word of the question is in an answer, but not in its message, error, reasoning or notes."""
    by_id = {record.id: record for record in records}
    for question in questions:
        if question.question_class is QuestionClass.FIELD:
            answers = [by_id[record] for record, grade in question.relevant.items() if grade == ANSWERS]
            for answer in answers:
                everything = _words(" ".join(_values(answer.spec)))
                assert _words(question.text) & (everything - _words(_prose(answer))), question.id


def test_some_questions_have_a_token_that_few_records_have(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    texts = {record.id: json.dumps(record.spec, ensure_ascii=False).lower() for record in records}
    rare = [
        question.id
        for question in questions
        for token in question.text.lower().split()
        if re.search(r"\d|_|^\w{18,}$", token)
        and 1 <= len(found := [record for record, text in texts.items() if token in text]) <= 3
        and set(found) <= set(question.relevant)
    ]
    assert len(set(rare)) >= 8


# Keys of the model under which the keys are the writer's own, and so are words of the record.
_FREE = frozenset(("details", "parameters", "labels", "annotations", "stateBefore", "stateAfter", "criteria"))


def _values(value: Any, *, free: bool = False) -> Iterator[str]:
    """Yield everything that the writer of a spec chose: all values, and the keys where they are free."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "aiAnalysis":  # the provider and the model were drawn at random
                continue
            if free:
                yield key
            yield from _values(item, free=free or key in _FREE)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, free=free)
    else:
        yield str(value)


def _prose(record: LabelledRecord) -> str:
    spec = record.spec
    texts = [spec.get("message"), spec.get("errorMessage"), spec.get("model", {}).get("reasoning")]
    texts += [spec.get("execution", {}).get("error"), spec.get("effectiveness", {}).get("notes")]
    return " ".join(filter(None, texts))


def _words(text: str) -> set[str]:
    return {
        _ENDINGS.sub("", word) for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _STOP_WORDS
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "Pod"}, "kind must be one of"),
        ({"spec": {}}, "spec must be a dict, not empty"),
        ({"spec": {"type": "Remediation"}}, "oom-1: 3 validation errors"),
        ({"spec": RECORD["spec"] | {"colour": "red"}}, "colour"),
        ({"name": ""}, "name must be a str"),
        ({"namespace": 7}, "namespace must be a str"),
        ({"extra": 1}, "nothing else"),
    ],
)
def test_a_record_that_is_not_valid_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DatasetError, match=rf"(?s)records\.jsonl, line 2: .*{problem}"):
        load_records(_file(tmp_path, "records", [RECORD | {"id": "x", "name": "x"}, RECORD | changes]))


def test_a_record_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 2: oom-1 occurs twice"):
        load_records(_file(tmp_path, "records", [RECORD, RECORD | {"name": "other"}]))
    with pytest.raises(DatasetError, match=r"line 2: .*rr-1-analysis.* occurs twice"):
        load_records(_file(tmp_path, "records", [RECORD, RECORD | {"id": "other"}]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"relevant": {}}, "relevant must be a dict, not empty"),
        ({"relevant": {"oom-2": 2, "oom-1": 1}}, "unknown records: oom-2"),
        ({"relevant": {"oom-1": 3}}, "must be 1 or 2"),
        ({"relevant": {"oom-1": 0}}, "must be 1 or 2"),
        ({"relevant": {"oom-1": True}}, "must be 1 or 2"),
        ({"text": ""}, "text must be a str"),
        ({"part": "third"}, "part must be one of first, second"),
        ({"class": "guess"}, "class must be one of keyword, identifier"),
        ({"class": ""}, "class must be a str"),
        ({"id": "first"}, "first occurs twice"),
        ({"text": " FIRST"}, "occurs twice"),
    ],
)
def test_a_question_that_is_not_valid_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    records = load_records(_file(tmp_path, "records", [RECORD]))
    first = QUESTION | {"id": "first", "text": "first"}
    with pytest.raises(DatasetError, match=rf"questions\.jsonl, line 2: .*{problem}"):
        load_questions(records, _file(tmp_path, "questions", [first, QUESTION | changes]))


def test_a_line_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": ')
    with pytest.raises(DatasetError, match=r"records\.jsonl, line 1: not JSON"):
        load_records(path)


def _file(folder: Path, name: str, lines: list[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
