"""The one step of every revision: running the SQL file beside it."""

from pathlib import Path
from typing import Any

from alembic import op


def run_sql_beside(revision_file: str) -> None:
    """Run the SQL file of the same name as a revision's file."""
    sql = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    # The driver's own connection: a script of many statements can't be prepared.
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(sql))
