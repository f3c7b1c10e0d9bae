"""Which records a question is about, as conditions that every statement of the archive shares.

The conditions on the columns of a kind come from resources/reading: a column that has a ``filter`` there has
its condition here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from datastorage.records.record import Table
from datastorage.resources.reading.kindreading import FILTERS, FilterName, Reading
from datastorage.resources.reading.registry import reading_of_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Conditions on the columns; None sets none. A record has to meet all of them.

    ``equal`` has the values that columns must have. Where the two tables name a thing differently, one name
    stands for both: ``type`` is also the actionType of an ActionTrace, ``phase`` the status of its execution,
    ``target`` the resourceRef of an AuditRecord.
    """

    tables: frozenset[Table] = frozenset(Table)
    namespace: str | None = None
    since: datetime | None = None
    """The earliest time of creation."""
    until: datetime | None = None
    """Created before this."""
    equal: Mapping[FilterName, str] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The last arguments of a statement made by ``with_conditions``."""
        return (
            Table.AUDIT_RECORDS in self.tables, Table.ACTION_TRACES in self.tables, self.namespace,
            self.since, self.until, *(self.equal.get(name) for name in FILTERS),
        )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether every record meets it."""
        return set(self.tables) == set(Table) and all(value is None for value in self.arguments[2:])


_EQUAL_FROM: Final = 6
"""The number of the first filter among the arguments."""


def _conditions(table: Table, own: int) -> str:
    """Return the conditions on a table, whose arguments come behind ``own`` others.

    A condition that is not set is gone once the statement is planned for its values (see reading.py), and the
    bounds on created_at leave out whole months.
    """
    reading = reading_of_table(table)
    chosen, namespace, since, until = (own + n for n in (1 + list(Table).index(table), 3, 4, 5))
    return "\n    AND ".join(
        [
            f"${chosen}::boolean",
            f"(${namespace}::text IS NULL OR r.namespace = ${namespace})",
            f"r.created_at >= coalesce(${since}::timestamptz, '-infinity')",
            f"r.created_at < coalesce(${until}::timestamptz, 'infinity')",
            *(_equal(reading, name, own + number) for number, name in enumerate(FILTERS, _EQUAL_FROM)),
        ]
    )


def _equal(reading: Reading, name: FilterName, number: int) -> str:
    columns = [f"r.{column.name} = ${number}" for column in reading.columns if column.filter == name]
    return f"({' OR '.join([f'${number}::text IS NULL', *columns])})"


# As a value to compare with, it is looked up by the primary key for each row that meets the rest. As NOT
# EXISTS it could become a join with the whole table. An AuditRecord can't change, and needs no condition. A
# row that diverged is the newest that is known of its own history.
_NEWEST: Final = """(r.diverged OR r.generation = (SELECT max(n.generation)
        FROM datastorage.action_traces AS n WHERE n.uid = r.uid AND n.created_at = r.created_at))"""


def with_conditions(sql: str) -> str:
    """Return a statement with the conditions in their places, for rows "r".

    The places are {of_audit_records} and {of_action_traces}, and {newest}: that an ActionTrace is the newest
    generation of its object. The statement's own parameters are $1 and so on; the arguments of the criteria
    come behind them: ``fetch(statement, *own, *criteria.arguments)``.
    """
    own = max(int(number) for number in re.findall(r"\$(\d+)", sql))
    places = {
        "{of_audit_records}": _conditions(Table.AUDIT_RECORDS, own),
        "{of_action_traces}": _conditions(Table.ACTION_TRACES, own),
        "{newest}": _NEWEST,
    }
    for place, condition in places.items():
        sql = sql.replace(place, condition)
    return sql
