"""The hash of the spec in the key of a row, and the order in which rows were stored."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_beside(__file__)
