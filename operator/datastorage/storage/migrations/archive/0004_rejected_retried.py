"""Rejected records can be tried again; the result is noted beside them."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_beside(__file__)
