"""Indexes for the conditions that people list records by."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_beside(__file__)
