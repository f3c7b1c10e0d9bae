"""The labelled set is valid, varied, and refused when it is not."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search.dataset import (
    ANSWERS,
    HELPFUL,
    DatasetError,
    LabelledRecord,
    Question,
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
QUESTION: dict[str, Any] = {"id": "q-1", "text": "out of memory", "relevant": {"oom-1": 2}}


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
    assert len(records) >= 330
    assert kinds["ActionTrace"] >= 60
    assert min(types[name] for name in ("Remediation", "AIAnalysis", "Workflow", "Execution")) >= 10
    assert len({record.namespace for record in records}) >= 12
    assert len(questions) >= 70
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


def test_many_questions_share_no_word_with_their_answers(
    records: tuple[LabelledRecord, ...], questions: tuple[Question, ...]
) -> None:
    words = {record.id: _words(reading_named(record.kind).text(record.spec).text) for record in records}
    paraphrases = [
        question.id
        for question in questions
        if not _words(question.text) & set().union(*(words[record] for record in question.relevant))
    ]
    assert len(paraphrases) >= 20


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
