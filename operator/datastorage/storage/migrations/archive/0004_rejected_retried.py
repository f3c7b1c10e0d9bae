"""The time at which a rejected record was found to be stored after all, by a retry for example."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_beside(__file__)
