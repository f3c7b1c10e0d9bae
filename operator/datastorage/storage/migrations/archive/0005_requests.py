"""Records may come over HTTP: who sent them, and under which identifier they may be sent again."""

from datastorage.storage.migrations.script import run_sql_beside

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_beside(__file__)
