"""Alembic's entry point: runs one chain's revisions on the connection that migrate.py hands over."""

from alembic import context

from datastorage.storage.schema import SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    version_table_schema=SCHEMA,
)
context.run_migrations()
