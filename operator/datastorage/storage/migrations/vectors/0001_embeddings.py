"""The models, and the tables of each model's vectors."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_beside(__file__)
