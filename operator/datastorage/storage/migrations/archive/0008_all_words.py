"""Rows say which words of their record they are found by."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_beside(__file__)
