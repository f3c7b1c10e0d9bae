"""The service may add to the archive and read it; it can't change, remove or rebuild anything."""

from typing import Any

import asyncpg
import pytest

from datastorage.storage.write import Archive
from harness.objects import action_trace, audit_record, record_of
from harness.postgres import TestDatabase

_TABLES = ("audit_records", "action_traces", "rejected_objects")


@pytest.fixture
def cloned(common: TestDatabase) -> TestDatabase:
    """A database for the module: no test succeeds in changing it."""
    return common


@pytest.mark.parametrize("table", _TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE datastorage.{table} SET content = ''",
        "DELETE FROM datastorage.{table}",
        "TRUNCATE datastorage.{table}",
        "DROP TABLE datastorage.{table}",
        "ALTER TABLE datastorage.{table} ADD COLUMN more text",
        "ALTER TABLE datastorage.{table} DISABLE TRIGGER ALL",
        "CREATE INDEX ON datastorage.{table} (name)",
        ("CREATE TRIGGER sneaky BEFORE INSERT ON datastorage.{table} "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
    ],
)  # fmt: skip
@pytest.mark.oldest_postgres
async def test_the_archive_only_grows(service: Any, table: str, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement.format(table=table))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE datastorage.mine ()",
        "DROP SCHEMA datastorage CASCADE",
        "ALTER SCHEMA datastorage OWNER TO CURRENT_USER",
        "UPDATE datastorage.schema_version SET version_num = 'x'",
        "DROP FUNCTION datastorage.ensure_partitions",
        ("CREATE OR REPLACE FUNCTION datastorage.ensure_partitions(at timestamptz) "
        "RETURNS void LANGUAGE sql AS ''"),
        "SET ROLE postgres",
    ],
)  # fmt: skip
@pytest.mark.oldest_postgres
async def test_the_schema_is_out_of_reach(service: Any, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement)


@pytest.mark.oldest_postgres
async def test_partitions_are_out_of_reach(service: Any, archive: Archive) -> None:
    await archive.write([record_of(audit_record()), record_of(action_trace())])
    partitions = await service.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r'")  # fmt: skip
    assert len(partitions) >= 2
    for partition in partitions:
        for statement in ("DROP TABLE {}", "DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET content = ''"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(statement.format(partition["name"]))


@pytest.mark.oldest_postgres
async def test_other_roles_cannot_make_partitions(owner: Any) -> None:
    allowed = await owner.fetchval(
        "SELECT has_function_privilege('public', 'datastorage.ensure_partitions(timestamptz)', 'EXECUTE')"
    )
    assert allowed is False


@pytest.mark.oldest_postgres
async def test_the_group_role_cannot_log_in(owner: Any) -> None:
    login = await owner.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'datastorage_service'")
    assert login is False
