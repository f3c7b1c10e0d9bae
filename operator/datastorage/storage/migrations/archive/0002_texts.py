"""The texts of records, the vectors that are still missing, and a role that only reads."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_beside(__file__)
