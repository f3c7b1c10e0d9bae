"""Thousands of texts are looked up at once by numbers instead of their hashes."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_beside(__file__)
