"""The conditions on the records that a question is about, shared by all statements that read the archive.

A column of a kind has a condition here if it has ``filters`` in resources/reading.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

from datastorage.records.record import Table
from datastorage.resources.reading.kindreading import FILTERS, FilterName, Reading
from datastorage.resources.reading.registry import reading_of_table


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that a reader may see, whatever the question is; None means no limit."""

    namespace: str | None = None
    since: datetime | None = None
    """The earliest time of creation."""

    def within(self, other: "Scope") -> "Scope":
        """Return the rows that are in both; scopes of two namespaces have none, and so are never compared."""
        assert None in {self.namespace, other.namespace} or self.namespace == other.namespace
        since = max((time for time in (self.since, other.since) if time is not None), default=None)
        return Scope(self.namespace or other.namespace, since)


EVERYTHING: Final = Scope()


class Shape(Enum):
    """The conditions that a version of a statement has, besides those on the table and the time."""

    EVERYWHERE = auto()
    """None."""
    NAMESPACE = auto()
    """The namespace."""
    ANY = auto()
    """All that there are, set or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Conditions on the columns; None means no condition. A record has to meet all of them.

    ``equal`` holds the values that columns must have. Where the two tables name the same thing differently,
    one name stands for both: ``type`` and ``action`` are also the actionType of an ActionTrace, ``phase`` is
    the status of its execution, ``target`` the resourceRef of an AuditRecord.
    """

    tables: frozenset[Table] = frozenset(Table)
    namespace: str | None = None
    since: datetime | None = None
    """The earliest time of creation."""
    until: datetime | None = None
    """The time before which the record was created."""
    equal: Mapping[FilterName, str] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The last arguments of a statement that ``with_conditions`` returned."""
        return (
            Table.AUDIT_RECORDS in self.tables, Table.ACTION_TRACES in self.tables, self.namespace,
            self.since, self.until, *(self.equal.get(name) for name in FILTERS),
        )  # fmt: skip

    def within(self, scope: Scope) -> "Criteria":
        """Return these criteria and those of the scope together. A scope of another namespace has no rows."""
        contradictory = None not in {self.namespace, scope.namespace} and self.namespace != scope.namespace
        since = max((time for time in (self.since, scope.since) if time is not None), default=None)
        return replace(
            self,
            tables=frozenset() if contradictory else self.tables,
            namespace=self.namespace if scope.namespace is None else scope.namespace,
            since=since,
        )

    @property
    def shape(self) -> Shape:
        """The version of a statement that serves these criteria."""
        if any(self.equal.get(name) is not None for name in FILTERS):
            return Shape.ANY
        return Shape.EVERYWHERE if self.namespace is None else Shape.NAMESPACE

    @property
    def is_open(self) -> bool:
        """Whether every record meets the criteria."""
        return set(self.tables) == set(Table) and all(value is None for value in self.arguments[2:])


_EQUAL_FROM: Final = 6
"""The number of the first filter among the arguments."""
_ON_NAMESPACE: Final[Mapping[Shape, str]] = {
    Shape.EVERYWHERE: "${0}::text IS NULL",
    Shape.NAMESPACE: "r.namespace = ${0}",
    Shape.ANY: "(${0}::text IS NULL OR r.namespace = ${0})",
}
_OF_ALL_ROWS: Final[Mapping[FilterName, str]] = {"via": "via", "recorded_by": "recorded_by"}
"""The columns of both tables that a filter is about, beside those of the kinds."""


def _conditions(table: Table, own: int, shape: Shape) -> str:
    """Return the conditions on a table. The statement has ``own`` other arguments, which come first.

    With Shape.ANY, a statement that does not look rows up by key or text needs OWN_PLAN (readonly.py). Then
    PostgreSQL drops the conditions that are not set, and the bounds on created_at exclude whole months.
    """
    filters = enumerate(FILTERS, _EQUAL_FROM) if shape is Shape.ANY else ()
    reading = reading_of_table(table)
    chosen, namespace, since, until = (own + n for n in (1 + list(Table).index(table), 3, 4, 5))
    return "\n    AND ".join(
        [
            f"${chosen}::boolean",
            _ON_NAMESPACE[shape].format(namespace),
            f"r.created_at >= coalesce(${since}::timestamptz, '-infinity')",
            f"r.created_at < coalesce(${until}::timestamptz, 'infinity')",
            *(_equal(reading, name, own + number) for number, name in filters),
        ]
    )


def column_of(reading: Reading, name: FilterName) -> str | None:
    """Return the column of a kind's table that a filter is about; None if the kind has nothing like it."""
    of_kind = (column.name for column in reading.columns if name in column.filters)
    return next(of_kind, _OF_ALL_ROWS.get(name))


def _equal(reading: Reading, name: FilterName, number: int) -> str:
    # A filter on what the kind does not have leaves none of its rows.
    column = column_of(reading, name)
    not_set = f"${number}::text IS NULL"
    return f"({not_set})" if column is None else f"({not_set} OR r.{column} = ${number})"


# With this subquery, PostgreSQL looks the newest generation up by primary key, for each row that meets the
# other conditions. NOT EXISTS could become a join with the whole table. An AuditRecord can't change, so it
# needs no such condition. A diverged row always counts as newest, because its history is not that of the
# other rows.
_NEWEST: Final = """(r.diverged OR r.generation = (SELECT max(n.generation)
        FROM datastorage.action_traces AS n WHERE n.uid = r.uid AND n.created_at = r.created_at))"""


def with_conditions(sql: str, shape: Shape = Shape.ANY) -> str:
    """Return a statement with its placeholders replaced by the conditions on the rows "r".

    {of_audit_records} and {of_action_traces} are the criteria for each table; {newest} means that an
    ActionTrace is the newest generation of its object. The statement's own parameters are $1 and so on; the
    arguments of the criteria follow them: ``fetch(statement, *own, *criteria.arguments)``.
    """
    own = max(int(number) for number in re.findall(r"\$(\d+)", sql))
    places = {
        "{of_audit_records}": _conditions(Table.AUDIT_RECORDS, own, shape),
        "{of_action_traces}": _conditions(Table.ACTION_TRACES, own, shape),
        "{newest}": _NEWEST,
    }
    for place, condition in places.items():
        sql = sql.replace(place, condition)
    return sql


def count_up_to(limit: str) -> str:
    """Return the SQL that counts the records that meet the criteria, up to a parameter such as "$1"."""
    return f"""SELECT count(*) FROM (
        SELECT FROM datastorage.audit_records AS r WHERE {{of_audit_records}}
        UNION ALL
        SELECT FROM datastorage.action_traces AS r WHERE {{of_action_traces}}
        LIMIT {limit}) AS some_rows"""  # noqa: S608  # names of our own


class ShapedStatement:
    """A statement with a version for each shape.

    If nothing but a namespace and times is set, the version has no other conditions, and one plan serves all
    values: an index has the rows in their order. Planning such a question each time takes longer than
    answering it, and the longer the more months there are. With other conditions, the best plan depends on
    how many rows have the values.
    """

    def __init__(self, sql: str) -> None:
        """``sql`` is as for ``with_conditions``."""
        self._versions = {shape: with_conditions(sql, shape) for shape in Shape}

    def of(self, criteria: Criteria) -> tuple[str, tuple[Any, ...]]:
        """Return the version for the criteria, and the arguments that follow the statement's own."""
        arguments = criteria.arguments
        if criteria.shape is not Shape.ANY:
            arguments = arguments[: _EQUAL_FROM - 1]
        return self._versions[criteria.shape], arguments
