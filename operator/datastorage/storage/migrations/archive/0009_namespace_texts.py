"""The texts of a namespace can be read from an index alone."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_beside(__file__)
