"""The meaning of specs: the declarations of each kind, and what their users rely on."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from datastorage.query.filters import Filter
from datastorage.records.record import Table
from datastorage.resources.kinds import ACTION_TRACE, KINDS
from datastorage.resources.reading.kindreading import FILTERS, Reading
from datastorage.resources.reading.registry import READINGS, kind_of, reading_named, reading_of, table_of
from datastorage.storage.criteria import Criteria, Shape, ShapedStatement, with_conditions

_LARGE = ("pydantic", "yaml", "numpy", "asyncpg", "kopf")

each_kind = pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.kind.kind)


def test_every_kind_has_a_table_of_its_own() -> None:
    assert [reading.kind for reading in READINGS] == list(KINDS)
    assert [reading.table for reading in READINGS] == list(Table)
    for reading in READINGS:
        assert reading_of(reading.kind) is reading_named(reading.kind.kind) is reading
        assert kind_of(table_of(reading.kind)) is reading.kind


@pytest.mark.parametrize(
    "value",
    [True, "0.5", None, 10**400, -(10**400)],
    ids=["truth", "text", "none", "huge", "hugely negative"],
)
def test_what_is_no_number_of_a_column_is_left_out(value: object) -> None:
    reading = reading_of(ACTION_TRACE)
    spec = {"model": {"confidence": value}, "effectiveness": {"score": value}}
    named = dict(zip((column.name for column in reading.columns), reading.index(spec), strict=True))
    result = reading.result(spec)
    found = (named["model_confidence"], named["effectiveness_score"], result.confidence, result.score)
    assert found == (None, None, None, None)


# What a trace has no field for; a filter on it leaves no trace.
_OF_RECORDS_ONLY = {"environment", "cluster", "actor_kind", "actor_name"}
_OF_ALL_ROWS = {"via", "recorded_by"}


@each_kind
def test_every_filter_is_a_condition_on_one_column(reading: Reading) -> None:
    filters = [name for column in reading.columns for name in column.filters]
    absent = _OF_RECORDS_ONLY if reading.table is Table.ACTION_TRACES else set()
    assert sorted(filters) == sorted(set(FILTERS) - _OF_ALL_ROWS - absent)


def test_every_filter_can_be_asked_for() -> None:
    about_all = {"kind", "namespace", "since", "until"}
    assert {field.name for field in fields(Filter)} - about_all == set(FILTERS)


def test_a_filter_reaches_the_arguments_at_the_number_of_its_condition() -> None:
    sql = with_conditions("SELECT $1, $2 FROM t AS r WHERE {of_audit_records} OR {of_action_traces}")
    for name in FILTERS:
        arguments = ("own", "own", *Criteria(equal={name: "wanted"}).arguments)
        number = arguments.index("wanted") + 1
        for reading in READINGS:
            columns = [column.name for column in reading.columns if name in column.filters]
            if name in _OF_ALL_ROWS:
                columns = [name]
            if columns:
                [column] = columns
                assert f"(${number}::text IS NULL OR r.{column} = ${number})" in sql
            else:
                assert f"AND (${number}::text IS NULL)" in sql


@pytest.mark.parametrize(
    "criteria",
    [Criteria(), Criteria(namespace="n"), Criteria(namespace="n", equal={"phase": "Failed"})],
    ids=str,
)
def test_a_version_of_a_statement_has_the_conditions_that_are_set(criteria: Criteria) -> None:
    of_both = ShapedStatement("SELECT $1, $2 FROM t AS r WHERE {of_audit_records} OR {of_action_traces}")
    sql, arguments = of_both.of(criteria)
    used = {int(number) for number in re.findall(r"\$(\d+)", sql)}
    assert used == set(range(1, 2 + len(arguments) + 1))
    assert arguments == criteria.arguments[: len(arguments)]
    assert not any(value is not None for value in criteria.arguments[len(arguments) :])
    assert sql.count("r.namespace = $5") == (0 if criteria.shape is Shape.EVERYWHERE else 2)


@each_kind
def test_an_empty_spec_is_read_without_an_error(reading: Reading) -> None:
    assert len(reading.index({})) == len(reading.columns)
    assert reading.text({}).text == ""
    assert (reading.outcome({}), reading.target({}), reading.in_brief({})) == ("", "", "")


def test_the_summary_says_what_was_done_and_the_weightiest_remark() -> None:
    record, trace = READINGS
    said = {"action": "restart", "message": "in vain", "errorMessage": "no such pod"}
    assert record.in_brief(said) == "restart: no such pod"
    assert trace.in_brief({"actionType": "scale", "model": {"reasoning": "r"}}) == "scale: r"
    long = record.in_brief({"message": "x" * 1000})
    assert (len(long), long[-1]) == (160, "…")


@pytest.mark.parametrize("module", ["kinds", "printercolumns", "reading.registry", "reading.objectrecord"])
def test_reading_a_spec_loads_nothing_large(module: str) -> None:
    """Every command of the command line loads these modules."""
    program = f"import sys, datastorage.resources.{module}; print(*({set(_LARGE)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
