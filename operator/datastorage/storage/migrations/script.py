"""Runs the SQL file of a revision, which is all that a revision does."""

from pathlib import Path
from typing import Any

from alembic import op


def run_sql_beside(revision_file: str) -> None:
    """Run the SQL file of the same name as a revision's file."""
    sql = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    # The script runs on the driver's connection: SQLAlchemy would prepare it, and a script of several
    # statements can't be prepared.
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(sql))
