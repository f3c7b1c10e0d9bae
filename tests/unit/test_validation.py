"""The decision about a new object; e2e/test_validation.py compares it with that of the API server."""

import subprocess
import sys
import tracemalloc
from copy import deepcopy
from typing import Any

import pytest

from datastorage.resources.crd import crd
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, KINDS, ResourceKind
from datastorage.resources.validation.celrules import creation_rules
from datastorage.resources.validation.problems import MAX_PROBLEMS, Code, FieldProblem
from datastorage.resources.validation.schemacheck import Findings, compiled
from datastorage.resources.validation.verdict import validated, verdict
from harness.objects import AUDIT_SPEC, TRACE_SPEC

Object = dict[str, Any]


def audit(metadata: Object | None = None, **spec: Any) -> Object:
    return {"metadata": {"namespace": "payments", **(metadata or {})}, "spec": {**AUDIT_SPEC, **spec}}


def trace(**spec: Any) -> Object:
    return {"metadata": {"namespace": "payments"}, "spec": {**TRACE_SPEC, **spec}}


def found(body: Any, kind: ResourceKind = AUDIT_RECORD) -> list[tuple[str, Code]]:
    return [(problem.pointer, problem.code) for problem in validated(kind, body)]


def test_kind_version_and_name_may_be_left_out() -> None:
    assert validated(AUDIT_RECORD, audit()) == []
    assert validated(ACTION_TRACE, trace()) == []


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ([], [("", Code.WRONG_TYPE)]),
        ({}, [("/metadata/namespace", Code.REQUIRED), ("/spec", Code.REQUIRED)]),
        (audit(type=None), [("/spec/type", Code.REQUIRED)]),
        (audit(type="Other"), [("/spec/type", Code.NOT_ALLOWED)]),
        (audit(action=""), [("/spec/action", Code.TOO_SHORT)]),
        (audit(action="🧨" * 101), [("/spec/action", Code.TOO_LONG)]),
        (audit(action=1), [("/spec/action", Code.WRONG_TYPE)]),
        (audit(startTime="soon"), [("/spec/startTime", Code.BAD_FORMAT)]),
        (audit(ttlSecondsAfterStored=2**31), [("/spec/ttlSecondsAfterStored", Code.OUT_OF_RANGE)]),
        (audit(colour=1), [("/spec/colour", Code.UNKNOWN_FIELD)]),
        (audit(actor={"kind": "a", "name": "b", "a~b/c": 1}), [("/spec/actor/a~0b~1c", Code.UNKNOWN_FIELD)]),
        (audit(actor={"kind": "a"}), [("/spec/actor/name", Code.REQUIRED)]),
        (audit(workflow={}), [("/spec/workflow", Code.RULE_BROKEN)]),
        (audit({"uid": 1}), [("/metadata/uid", Code.WRONG_TYPE)]),
        (audit({"labels": {"a/b": "-"}}), [("/metadata/labels/a~1b", Code.BAD_FORMAT)]),
        (audit({"name": "A"}), [("/metadata/name", Code.BAD_FORMAT)]),
        (audit({"namespace": "a.b"}), [("/metadata/namespace", Code.BAD_FORMAT)]),
        (audit({"generateName": "a.-"}), [("/metadata/generateName", Code.BAD_FORMAT)]),
        (audit({"name": "a", "generateName": "a.-"}), []),
        (audit({"resourceVersion": "5"}), [("/metadata/resourceVersion", Code.NOT_ALLOWED)]),
        (audit() | {"kind": "ActionTrace"}, [("/kind", Code.NOT_ALLOWED)]),
        (audit() | {"status": {"a": 1}}, [("/status/a", Code.UNKNOWN_FIELD)]),
        (
            audit() | {"status": {"phase": [[1, []], [[{}, {"a/b": 1}]]], "message": [{"c": 1}]}},
            [("/status/phase/1/0/1/a~1b", Code.UNKNOWN_FIELD), ("/status/message/0/c", Code.UNKNOWN_FIELD)],
        ),
        (audit(startTime=[[{"a": 1}]]), [("/spec/startTime/0/0/a", Code.UNKNOWN_FIELD)]),
        (audit() | {"more": 1}, [("/more", Code.UNKNOWN_FIELD)]),
        (audit() | {"m" * 1000: 1}, [(f"/{'m' * 320}…", Code.UNKNOWN_FIELD)]),
        (audit(details="a" * 1_600_000), [("", Code.TOO_LARGE)]),
    ],
)  # fmt: skip
def test_problems(body: Any, problems: list[tuple[str, Code]]) -> None:
    assert found(body) == problems


def test_problems_of_a_trace() -> None:
    execution = {"status": "Failed", "startTime": "2026-03-01T10:00:00Z", "endTime": "2026-03-01T09:00:00Z"}
    assert validated(ACTION_TRACE, trace(execution=execution)) == [
        FieldProblem("/spec/execution/endTime", "endTime must not be before startTime", Code.RULE_BROKEN)
    ]
    operations = [{"verb": "get"}, None, {"verb": ""}]
    assert found(trace(execution={"status": "Failed", "operations": operations}), ACTION_TRACE) == [
        ("/spec/execution/operations/1", Code.WRONG_TYPE),
        ("/spec/execution/operations/2/verb", Code.TOO_SHORT),
    ]
    many = trace(execution={"status": "Failed", "operations": [None] * 257})
    assert found(many, ACTION_TRACE) == [("/spec/execution/operations", Code.TOO_MANY)]
    labels = trace(alert={"name": "a", "labels": {f"{number}": 1 for number in range(65)}})
    assert found(labels, ACTION_TRACE) == [("/spec/alert/labels", Code.TOO_MANY)]


def test_a_hostile_status_takes_no_memory_for_each_of_its_places() -> None:
    """A pointer has some 10 KB there: one for each of the places would take 300 MB."""
    deep: Any = [[1] for _ in range(30_000)]
    for _ in range(5_000):
        deep = [deep]
    deep.append({"a": 1})
    tracemalloc.start()
    problems = validated(AUDIT_RECORD, audit() | {"status": {"phase": deep}})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.pointer for problem in problems] == ["/status/phase/1/a"]
    assert most < 20_000_000


def test_problems_are_bounded() -> None:
    body = audit()
    body["spec"] |= {f"field{number}": 1 for number in range(1000)}
    assert len(validated(AUDIT_RECORD, body)) == MAX_PROBLEMS


def test_the_spec_is_kept_without_nulls_that_mean_nothing() -> None:
    body = audit(severity=None, details={"a": None}, actor={"kind": "a", "name": "b"})
    before = deepcopy(body)
    assert verdict(AUDIT_RECORD, body).spec == {
        **AUDIT_SPEC, "details": {"a": None}, "actor": {"kind": "a", "name": "b"}
    }  # fmt: skip
    assert body == before


def test_numbers_become_those_that_the_api_server_serves() -> None:
    details = {"a": [1.0, -0.0, 2.0**63, 1e20, 1e21, 1.5, True, {"b": 5.0}]}
    body = audit(details=details)
    served = verdict(AUDIT_RECORD, body).spec["details"]["a"]
    assert str(served) == "[1, 0, 9223372036854776000, 100000000000000000000, 1e+21, 1.5, True, {'b': 5}]"
    assert str(details["a"][0]) == "1.0"


def test_times_are_compared_by_the_nanosecond_and_from_the_year_0() -> None:
    later, earlier = "2026-01-01T00:00:00.000000002Z", "2026-01-01T00:00:00.000000001Z"
    assert found(audit(startTime=earlier, endTime=later)) == []
    assert found(audit(startTime=later, endTime=earlier)) == [("/spec/endTime", Code.RULE_BROKEN)]
    assert found(audit(startTime=later, endTime="0000-02-29T23:00:00-23:59")) == []


def _schemas(schema: Object) -> list[Object]:
    below = [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]
    return [schema, *(sub for part in below for sub in _schemas(part))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_all_rules_of_creation_are_evaluated(kind: ResourceKind) -> None:
    """Only the rules about a change are passed over, and each other one can be evaluated."""
    [version] = crd(kind)["spec"]["versions"]
    for schema in _schemas(version["schema"]["openAPIV3Schema"]):
        rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", [])]
        assert len(creation_rules(schema)) == len([rule for rule in rules if "oldSelf" not in rule])


@pytest.mark.parametrize(
    "rule",
    [
        "size(self.a) < 3",
        "self.a.matches('x')",
        "self.b == 'x'",
        "self.a ? 1 : 2",
        "a b",
        "1 < 2 < 3",
        "has(a)",
    ],
)
def test_a_rule_beyond_the_subset_is_an_error(rule: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": rule, "message": "m"}],
    }
    with pytest.raises(NotImplementedError):
        creation_rules(schema)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("self.a == 'x'", True),
        ("self.a != 'x'", False),
        ("!(self.a == 'x') || has(self.c)", False),
        ("self.c == 'x' || self.a == 'x'", True),
        ("self.a == 'x' || self.c == 'x'", True),
        ("self.c == 'x' || self.a == 'y'", False),
        ("self.c == 'x' && self.a == 'x'", False),
        ("!(self.c == 'x' && self.a == 'y')", True),
        ("self.a in ['x', 'y']", True),
        ("self.a == '!||&&'", False),
        ("!has(self.c) && has(self.a)", True),
    ],
)
def test_rules(rule: str, holds: bool) -> None:  # noqa: FBT001
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "c": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": rule, "message": "m"}],
    }
    [made] = creation_rules(schema)
    assert made.holds({"a": "x"}) is holds


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "uuid"},
        {"type": "integer", "multipleOf": 2},
        {"type": "object", "properties": {"a": {"oneOf": []}}},
        {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        {"description": "no type"},
        {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
    ],
)
def test_an_unknown_keyword_is_an_error(schema: Object) -> None:
    with pytest.raises(NotImplementedError):
        compiled(schema)


def test_a_line_break_after_a_pattern_does_not_match() -> None:
    findings = Findings()
    compiled({"type": "string", "pattern": r"^\d$"})("1\n", "", findings)
    assert [problem.code for problem in findings.problems] == [Code.BAD_FORMAT]


def test_the_command_line_does_not_load_it() -> None:
    code = "import sys, datastorage.cli.app; print([name for name in sys.modules if 'validation' in name])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "datastorage" not in run.stdout
