"""Rows are exported in the order in which they were stored."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_beside(__file__)
