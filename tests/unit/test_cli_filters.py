"""The options that choose records: each condition of a question has one."""

from dataclasses import asdict, fields
from datetime import UTC, datetime

from datastorage.cli.filters import FilterOptions

# A value for each option that is not plain text.
_VALUES = {
    "kind": "AuditRecord",
    "type": "Workflow",
    "phase": "Failed",
    "since": "7d",
    "until": "1h",
    "target": "Pod/shop/api",
    "via": "api",
}


def test_the_options_can_set_every_condition() -> None:
    options = FilterOptions(**{field.name: _VALUES.get(field.name, "x") for field in fields(FilterOptions)})
    conditions = asdict(options.at(datetime(2026, 3, 5, tzinfo=UTC)))
    assert [name for name, value in conditions.items() if value is None] == []
