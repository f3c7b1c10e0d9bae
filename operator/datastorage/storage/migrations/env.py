"""Alembic's entry point: runs the revisions on the connection that migrate.py hands over."""

from alembic import context

from datastorage.storage.schema import SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table="schema_version",
    version_table_schema=SCHEMA,
)
context.run_migrations()
