"""What records mean: their texts, what is owed of their vectors, and a role that only reads."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_beside(__file__)
