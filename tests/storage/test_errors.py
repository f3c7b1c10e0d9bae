"""PostgreSQL's errors are translated: the data is bad, or the server can't serve now."""

import asyncio
import logging
import ssl
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from datastorage.errors import (
    ConfigurationError,
    DataStorageError,
    MissingRightsError,
    RecordRefusedError,
    TransientError,
    WorkRefusedError,
)
from datastorage.metrics import Dependency
from datastorage.records.record import Record, Table
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.connecting import connecting
from datastorage.storage.connection.database import Database, Pace
from datastorage.storage.connection.errortranslation import translated_errors
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.connection.urls import check_url
from datastorage.storage.readonly import reading
from datastorage.storage.write import Archive
from harness.objects import audit_record, record_of
from harness.polling import DEADLINE_SECONDS, eventually, settle
from harness.postgres import TestDatabase
from harness.proxy import FreezableProxy, silent_server
from tests.support.ping import ping

_SECRET = "hunter2-secret"
_SLEEPING = "SELECT true FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'SELECT pg_sleep%'"


def _translated(error: Exception) -> DataStorageError:
    with pytest.raises(DataStorageError) as caught, translated_errors():
        raise error
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DataError("bad value"),
        asyncpg.CharacterNotInRepertoireError("bad value"),
        asyncpg.NumericValueOutOfRangeError("bad value"),
        asyncpg.DatetimeFieldOverflowError("bad value"),
        asyncpg.ProgramLimitExceededError("bad value"),
    ],
)
def test_bad_data_is_refused_for_good(error: Exception) -> None:
    translated = _translated(error)
    assert type(translated) is RecordRefusedError
    assert "bad value" in str(translated)


_OWN_FUNCTION = "datastorage.ensure_partitions(timestamp with time zone)"


@pytest.mark.parametrize(
    ("context", "is_own"),
    [
        (None, True),
        ("unnamed portal parameter $1", True),
        ("unbenanntes Portal Parameter $1", True),
        ("параметр $1 безымянного портала", True),
        ("JSON data, line 1: …\nunnamed portal parameter $1", True),
        (f"PL/pgSQL function {_OWN_FUNCTION} line 10 at RAISE", True),
        (f"PL/pgSQL-Funktion {_OWN_FUNCTION} Zeile 10 bei RAISE", True),
        (f"PL/pgSQL関数{_OWN_FUNCTION}の10行目 - RAISE", True),
        (f"SQL-Anweisung »SELECT f(1,\n2)«\nPL/pgSQL-Funktion {_OWN_FUNCTION} Zeile 12 bei EXECUTE", True),
        ("PL/pgSQL function public.somebody_s() line 1 at PERFORM", False),
        ("PL/pgSQL-Funktion somebody_s() Zeile 1 bei PERFORM", False),
        ("fonction PL/pgSQL somebody_s(), ligne 1 à PERFORM", False),
        ("PL/Python-Funktion »somebody_s«", False),
        ("SQL-Funktion »somebody_s« Anweisung 1", False),
        ("SQL-Anweisung »INSERT INTO datastorage.audit_records VALUES ($1)«", False),
        (f"PL/pgSQL-Funktion {_OWN_FUNCTION} Zeile 1 bei PERFORM\nPL/pgSQL-Funktion f() Zeile 1", False),
        (f"PL/pgSQL-Funktion f() Zeile 1\nPL/pgSQL-Funktion {_OWN_FUNCTION} Zeile 1 bei PERFORM", False),
        ("PL/pgSQL-Funktion my_datastorage.f() Zeile 1 bei PERFORM", False),
        ("während etwas anderes geschah", False),
    ],
)
def test_only_our_own_error_code_rejects_a_record_in_any_language(context: str | None, is_own: bool) -> None:  # noqa: FBT001
    error = asyncpg.NumericValueOutOfRangeError("bad value")
    error.context = context
    assert type(_translated(error)) is (RecordRefusedError if is_own else WorkRefusedError)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidPasswordError("not now"),
        asyncpg.CannotConnectNowError("not now"),
        asyncpg.TooManyConnectionsError("not now"),
        asyncpg.DiskFullError("not now"),
        asyncpg.AdminShutdownError("not now"),
        asyncpg.CrashShutdownError("not now"),
        asyncpg.ReadOnlySQLTransactionError("not now"),
    ],
)
def test_an_outage_can_be_waited_for(error: Exception) -> None:
    translated = _translated(error)
    assert type(translated) is TransientError
    assert "not now" in str(translated)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedTableError("not so"),
        asyncpg.UndefinedColumnError("not so"),
        asyncpg.UntranslatableCharacterError("not so"),
        asyncpg.StringDataRightTruncationError("not so"),
        asyncpg.DivisionByZeroError("not so"),
        asyncpg.UniqueViolationError("not so"),
        asyncpg.NotNullViolationError("not so"),
        asyncpg.CheckViolationError("not so"),
        asyncpg.ForeignKeyViolationError("not so"),
        asyncpg.RaiseError("not so"),
        asyncpg.OutOfMemoryError("not so"),
        asyncpg.ConfigurationLimitExceededError("not so"),
        asyncpg.ProtocolViolationError("not so"),
        asyncpg.DeadlockDetectedError("not so"),
        asyncpg.SerializationError("not so"),
        asyncpg.QueryCanceledError("not so"),
        asyncpg.LockNotAvailableError("not so"),
        asyncpg.IdleInTransactionSessionTimeoutError("not so"),
        asyncpg.TransactionTimeoutError("not so"),
        asyncpg.ConnectionDoesNotExistError("not so"),
        asyncpg.InterfaceError("not so"),
        asyncpg.InternalClientError("not so"),
        ConnectionResetError("not so"),
        OSError("not so"),
        TimeoutError("not so"),
    ],
)
def test_other_errors_may_be_the_fault_of_the_work(error: Exception) -> None:
    """Only harmless work shows whether it is. No record is rejected for it."""
    translated = _translated(error)
    assert type(translated) is WorkRefusedError
    assert "not so" in str(translated)


def test_a_missing_right_is_distinguished_from_passing_faults() -> None:
    translated = _translated(asyncpg.InsufficientPrivilegeError("permission denied for table x"))
    assert type(translated) is MissingRightsError
    assert "permission denied for table x" in str(translated)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "PostgreSQL at 127.0.0.1:1 can't be reached: Connection refused"),
        ("localhost:1", "PostgreSQL at localhost:1 can't be reached: "),
        ("no-such-host.invalid", "PostgreSQL at no-such-host.invalid can't be reached: "),
        ("/x?host=/no/such/folder", "PostgreSQL at /no/such/folder can't be reached: No such file or dir"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_named_without_the_password(address: str, said: str) -> None:
    database = Database(f"postgresql://me:{_SECRET}@{address}", pool_size=1)
    with pytest.raises(TransientError) as caught:
        await ping(database)
    assert str(caught.value).startswith(said)
    assert _SECRET not in str(caught.value)
    await database.close()


async def test_a_server_that_refuses_is_named_without_the_password(cloned: TestDatabase) -> None:
    address = cloned.service_url.rpartition("@")[2].partition("/")[0]
    database = Database(f"postgresql://nobody:{_SECRET}@{address}/postgres", pool_size=1)
    with pytest.raises(TransientError) as caught:
        await ping(database)
    assert str(caught.value).startswith(f"PostgreSQL at {address} refuses the connection: ")
    assert _SECRET not in str(caught.value)
    await database.close()


async def test_an_exhausted_pool_is_no_absent_server(cloned: TestDatabase) -> None:
    database = Database(cloned.service_url, pool_size=1, pace=Pace(command_seconds=2.0))
    async with database.connection():
        with pytest.raises(TransientError, match=r"PostgreSQL: all 1 connections have been in use for 2 s"):
            await ping(database)
    await database.close()


async def test_a_server_that_stays_silent_is_named_by_the_address_in_its_service_file(tmp_path: Path) -> None:
    with silent_server() as address:
        host, _, port = address.partition(":")
        (tmp_path / "services").write_text(f"[audit]\nhost={host}\nport={port}\n")
        url = f"postgresql://me:{_SECRET}@/name?service=audit&servicefile={tmp_path}/services"
        database = Database(url, pool_size=1, pace=Pace(command_seconds=0.2))
        with pytest.raises(
            TransientError, match=f"^PostgreSQL at {host} can't be reached: no answer in time"
        ):
            await ping(database)
        await database.close()


async def test_a_role_that_may_not_connect_lacks_a_right(cloned: TestDatabase, owner: Any) -> None:
    await owner.execute(f"REVOKE CONNECT ON DATABASE {cloned.name} FROM PUBLIC")
    database = Database(cloned.service_url, pool_size=1)
    with pytest.raises(MissingRightsError, match="refuses the connection: permission denied for database"):
        await ping(database)
    await database.close()


def test_an_error_without_words_says_its_kind() -> None:
    assert str(_translated(TimeoutError())) == "PostgreSQL: no answer in time"
    assert str(_translated(ConnectionResetError())) == "PostgreSQL: ConnectionResetError"


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translated_errors():
        raise KeyError("a bug")


async def test_a_detail_that_quotes_the_row_is_left_out(archive: Archive, owner: Any) -> None:
    await owner.execute("ALTER TABLE datastorage.audit_records ADD CONSTRAINT c CHECK (action IS NULL)")
    with pytest.raises(WorkRefusedError) as caught:
        await archive.write([record_of(audit_record({"action": _SECRET}))])
    assert _SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: replace(record, key=replace(record.key, uid="no uuid")),
        lambda record: replace(record, content_hash=b"short"),
        lambda record: replace(record, name="a\0b"),
        lambda record: replace(record, key=replace(record.key, generation=2**64)),
    ],
)
async def test_values_that_no_row_can_hold_are_refused(
    archive: Archive, spoil: Callable[[Record], Record]
) -> None:
    with pytest.raises(RecordRefusedError):
        await archive.write([record_of(audit_record()), spoil(record_of(audit_record()))])


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE datastorage.audit_records CASCADE",
        "ALTER TABLE datastorage.audit_records RENAME COLUMN search TO other",
        "REVOKE INSERT ON datastorage.audit_records FROM datastorage_service",
        "DROP FUNCTION datastorage.ensure_partitions",
    ],
)
async def test_a_broken_schema_costs_no_record(archive: Archive, owner: Any, statement: str) -> None:
    await owner.execute(statement)
    with pytest.raises(TransientError):
        await archive.write([record_of(audit_record())])


async def test_a_statement_that_is_cancelled_can_be_repeated(
    cloned: TestDatabase, archive: Archive, owner: Any
) -> None:
    record = record_of(audit_record())
    await owner.execute("SELECT datastorage.ensure_partitions($1)", record.key.created_at)
    role = cloned.service_url.split("//")[1].split(":")[0]
    await owner.execute(f"ALTER ROLE {role} IN DATABASE {cloned.name} SET statement_timeout = '1s'")
    await owner.execute("BEGIN; LOCK TABLE datastorage.audit_records IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(TransientError, match="statement timeout"):
        await archive.find(Table.AUDIT_RECORDS, [record_of(audit_record()).key])
    await owner.execute("ROLLBACK")
    await archive.write([record_of(audit_record())])


async def test_connections_that_were_cut_are_replaced(
    archive: Archive, database: Database, cloned: TestDatabase, owner: Any
) -> None:
    await ping(database)
    await owner.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = $1 AND pid <> pg_backend_pid()",
        cloned.name,
    )
    try:
        await archive.write([record_of(audit_record())])
    except TransientError:
        await archive.write([record_of(audit_record())])


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.rpartition("@")[0] + "@127.0.0.1:1/name",
        lambda url: url.replace(":", ":" + _SECRET, 2).replace(":" + _SECRET, ":", 1),
        lambda url: url + "_absent",
    ],
    ids=["nobody listens", "wrong password", "no such database"],
)
async def test_an_absent_server_is_transient_and_keeps_the_password_secret(
    cloned: TestDatabase, caplog: pytest.LogCaptureFixture, change: Callable[[str], str]
) -> None:
    url = change(cloned.service_url)
    password = url.split("//")[1].split("@")[0].split(":")[1]
    database = Database(url, pool_size=2)
    with caplog.at_level(logging.DEBUG), pytest.raises(TransientError) as caught:
        await ping(database)
    assert password not in str(caught.value)
    assert password not in caplog.text
    assert "\n" not in str(caught.value)
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{_SECRET}@host/name",
        f"user:{_SECRET}@host/name",
        f"postgresql://user:{_SECRET}@host:port/name",
        f"postgresql://user:{_SECRET}/more@host/name",
        f"postgresql://user:{_SECRET}@[::1/name",
        f"postgresql://user:{_SECRET}@host/name?sslmode=bogus",
        f"postgresql://user:12/{_SECRET}@host/name",
        f"postgresql://user:12?{_SECRET}@host/name",
        f"postgresql://user:12#{_SECRET}@host/name",
        f"postgresql://user:{_SECRET}@a..b/name",
        f"postgresql://user:{_SECRET}@{'a' * 64}/name",
        f"postgresql://user:{_SECRET}@/name?host=/tmp&port=abc",
        f"postgresql://user:{_SECRET}@/name?host=/tmp/\0x",
        f"postgresql://user:{_SECRET}@host/name?host",
        f"postgresql://user:12@{_SECRET}@host/name",
        f"postgresql://user:{_SECRET}@h1,,h2/name",
        f"postgresql://user:{_SECRET}@/name?host=,",
        f"postgresql://user:{_SECRET}@/name?host=127.0.0.1&port=70000",
        "",
    ],
)
async def test_a_malformed_url_stops_the_start_without_showing_the_password(url: str) -> None:
    async def use() -> None:
        await ping(Database(url, pool_size=2))

    with pytest.raises(ConfigurationError) as caught:
        await use()
    assert "DATASTORAGE_DATABASE_URL" in str(caught.value)
    assert _SECRET not in "".join(traceback.format_exception(caught.value))
    assert _SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_first_connections_may_be_wanted_all_at_once(database: Database) -> None:
    await asyncio.gather(*(ping(database) for _ in range(12)))


async def test_the_service_shows_its_name_and_works_in_utc(database: Database) -> None:
    async with database.connection() as connection:
        assert await connection.fetchval("SHOW application_name") == "datastorage"
        assert await connection.fetchval("SHOW timezone") == "UTC"


async def test_a_database_can_be_closed_before_it_was_used(cloned: TestDatabase) -> None:
    await Database(cloned.service_url, pool_size=2).close()


async def _sleep(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT pg_sleep(600)")


async def _sleep_in_a_transaction(database: Database) -> None:
    async with database.connection() as connection, transaction(connection):
        await connection.execute("SELECT pg_sleep(600)")


async def _sleep_in_a_savepoint(database: Database) -> None:
    async with database.connection() as connection, transaction(connection), transaction(connection):
        await connection.execute("SELECT pg_sleep(600)")


async def _sleep_while_reading(database: Database) -> None:
    async with reading(database) as connection:
        await connection.execute("SELECT pg_sleep(600)")


async def _wait_for_a_connection(database: Database) -> None:
    async with database.connection(), database.connection():
        raise AssertionError


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    "work",
    [
        _sleep,
        _sleep_in_a_transaction,
        _sleep_in_a_savepoint,
        _sleep_while_reading,
        _wait_for_a_connection,
    ],
)
async def test_a_cancelled_call_ends_whatever_the_server_does(
    cloned: TestDatabase, owner: Any, work: Callable[[Database], Awaitable[None]], *, silent: bool
) -> None:
    """With a silent server the cleanup fails too, and would be repeated forever."""
    async with FreezableProxy(cloned.service_url) as proxy:
        database = Database(proxy.url, pool_size=1, pace=Pace(command_seconds=10 * DEADLINE_SECONDS))
        breaker = Breaker(Dependency.POSTGRES, partial(ping, database), on_recovery=lambda: None)
        await ping(database)
        working = asyncio.create_task(breaker.run(lambda: work(database)))
        if work is not _wait_for_a_connection:

            async def is_asleep() -> bool:
                return bool(await owner.fetchval(_SLEEPING, cloned.name))

            await eventually(is_asleep)
        await settle()
        if silent:
            proxy.freeze()
        working.cancel()
        done, _ = await asyncio.wait({working}, timeout=DEADLINE_SECONDS)
        assert done
        assert working.cancelled()
        await breaker.close()
        await database.close()


async def test_a_read_that_can_not_begin_fails_as_any_statement_without_an_answer(
    cloned: TestDatabase,
) -> None:
    async with FreezableProxy(cloned.service_url) as proxy:
        pace = Pace(command_seconds=0.5, trusted_seconds=600.0)
        database = Database(proxy.url, pool_size=1, pace=pace)
        await ping(database)
        proxy.freeze()
        with pytest.raises(TransientError) as caught:
            async with reading(database):
                pytest.fail("it can't begin")
        timeouts = 0
        error: BaseException | None = caught.value.__cause__
        while error is not None:
            timeouts += isinstance(error, TimeoutError)
            error = error.__context__
        assert timeouts == 1, "nothing was waited for after the BEGIN"
        await database.close()


async def test_a_read_whose_server_ends_fails_with_the_error_of_the_server(cloned: TestDatabase) -> None:
    database = Database(cloned.service_url, pool_size=1)
    with pytest.raises(TransientError, match="administrator command"):
        async with reading(database) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await database.close()


async def test_a_cancelled_transaction_is_undone_and_its_connection_closed(
    cloned: TestDatabase, owner: Any
) -> None:
    database = Database(cloned.service_url, pool_size=1)
    begun = asyncio.Event()

    async def write() -> None:
        async with database.connection() as connection, transaction(connection):
            await connection.execute("SELECT datastorage.ensure_partitions('2031-05-01Z')")
            begun.set()
            await connection.execute("SELECT pg_sleep(600)")

    writing = asyncio.create_task(write())
    await begun.wait()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    async with database.connection() as connection:
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT 1") == 1
    assert not await owner.fetchval("SELECT to_regclass('datastorage.audit_records_y2031m05') IS NOT NULL")
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///name",
        "postgresql://user@host",
        f"postgresql://user:{'%40%2F%3F%23' * 3}@host/name",
        "postgresql://user:x@h1,h2:5433/name",
        "postgresql://user:x@[::1]:5432,[fe80::1]/name",
        "postgresql://user:x@/name?host=/var/run/postgresql&port=5433",
        "postgresql://user:x@%2Fcloudsql%2Fmy-company-production%3Aeurope-west1%3Apostgres-main%2Fa/name",
        "postgresql:///name?host=h&user=me@tenant&password=x",
        "postgresql://user:x@host/name?application_name=a@b&options=-c%20x%3Dy",
    ],
)
def test_every_url_that_the_driver_takes_is_taken(url: str) -> None:
    check_url(url, "DATASTORAGE_DATABASE_URL")


def test_a_certificate_that_is_not_trusted_is_no_malformed_url() -> None:
    failure = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    with pytest.raises(ConfigurationError, match=r"not trusted: .*; sslrootcert in DATASTORAGE_DATABASE_URL"):
        _connect(failure)


def _connect(failure: Exception) -> None:
    with connecting("PostgreSQL at host", "DATASTORAGE_DATABASE_URL"):
        raise failure
