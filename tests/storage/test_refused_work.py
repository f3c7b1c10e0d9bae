"""Work that PostgreSQL refuses while it serves other work: only the record at fault waits, none is lost."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import TransientError
from datastorage.metrics import Dependency
from datastorage.pipeline.batchwriter import RowWriter
from datastorage.pipeline.setaside import Pace
from datastorage.records.record import Table
from datastorage.resilience.breaker import Breaker
from datastorage.storage import partitions
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.trial import Trial
from datastorage.storage.write import Archive
from harness.objects import AUDIT_SPEC, action_trace, audit_record
from harness.polling import eventually
from harness.postgres import TestDatabase
from tests.support.ping import ping
from tests.support.storing import Storing

SLOW, GOOD = 2, 60
MANY = 120  # together they take four times as long as a statement may

# Each row takes its time by the number in its action; what is named "bad" meets the rule that a test makes.
_TRIGGER = """
    CREATE FUNCTION public.somebody_s() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN {body} RETURN NEW; END $$;
    CREATE TRIGGER somebody_s BEFORE INSERT ON datastorage.audit_records
        FOR EACH ROW EXECUTE FUNCTION public.somebody_s();
"""
# To drop the trigger would lock the table and its partitions, and could deadlock with a record that is tried.
_HARMLESS = """
    CREATE OR REPLACE FUNCTION public.somebody_s() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN NEW; END $$;
"""
_SLEEPS = "PERFORM pg_sleep(substring(NEW.action FROM '^sleep ([0-9.]+)$')::float8);"


@pytest_asyncio.fixture
async def patient(cloned: TestDatabase) -> AsyncIterator[Database]:
    """The pool of the breaker: on a busy machine, harmless work may take longer than a test lets a row."""
    made = Database(f"{cloned.service_url}?statement_timeout=30s", pool_size=2)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def storing(database: Database, patient: Database) -> AsyncIterator[Storing]:
    breaker = Breaker(
        Dependency.POSTGRES, partial(ping, patient), on_recovery=lambda: None, trial=Trial(patient).write
    )
    pace = Pace(first_pause_seconds=0.02, max_pause_seconds=0.1)
    made = Storing(RowWriter(Archive(database)), breaker, RejectedRecords(database), pace=pace)
    async with made.running():
        yield made


async def limit(owner: Any, cloned: TestDatabase, setting: str, value: str) -> None:
    role = cloned.service_url.split("//")[1].split(":")[0]
    await owner.execute(f"ALTER ROLE {role} IN DATABASE {cloned.name} SET {setting} = '{value}'")


def sleeping(seconds: float, **metadata: Any) -> dict[str, Any]:
    return audit_record({**AUDIT_SPEC, "action": f"sleep {seconds}"}, **metadata)


async def rows(owner: Any) -> set[str]:
    return {row["name"] for row in await owner.fetch("SELECT name FROM datastorage.audit_records")}


async def test_a_batch_that_takes_too_long_is_made_smaller(
    storing: Storing, owner: Any, cloned: TestDatabase
) -> None:
    await owner.execute(_TRIGGER.format(body=_SLEEPS))
    await limit(owner, cloned, "statement_timeout", "300ms")
    storing.offer(*(sleeping(0.01) for _ in range(MANY)))
    await eventually(lambda: len(storing.outcomes) == MANY)
    assert set(storing.phases().values()) == {"StoredRecord"}
    assert await owner.fetchval("SELECT count(*) FROM datastorage.audit_records") == MANY
    assert storing.breaker.reason is None


async def test_a_record_that_is_too_slow_waits_and_holds_up_no_others(
    storing: Storing, owner: Any, cloned: TestDatabase
) -> None:
    await owner.execute(_TRIGGER.format(body=_SLEEPS))
    await limit(owner, cloned, "statement_timeout", "200ms")
    slow = [sleeping(30, name=f"slow-{n}") for n in range(SLOW)]
    storing.offer(*slow, *(audit_record() for _ in range(GOOD)), action_trace(), *slow)
    await eventually(lambda: len(storing.outcomes) == GOOD + 1)
    storing.offer(audit_record(name="later"))
    await eventually(lambda: "later" in storing.outcomes)
    assert not {"slow-0", "slow-1"} & storing.phases().keys()
    assert storing.breaker.reason is None

    async def reported() -> bool:
        problem = await storing.aside.problem()
        return (
            problem is not None
            and "automatically: 2; the reason of the oldest" in problem
            and "statement timeout" in problem
        )

    await eventually(reported)
    assert storing.idle  # a stop need not wait: the cluster has them
    await owner.execute(_HARMLESS)
    await eventually(lambda: {"slow-0", "slow-1"} <= storing.phases().keys())
    assert await storing.aside.problem() is None
    assert await owner.fetchval("SELECT count(*) FROM datastorage.rejected_objects") == 0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("ALTER TABLE datastorage.audit_records ADD CONSTRAINT theirs CHECK (name <> 'bad')", "theirs"),
        (
            _TRIGGER.format(body="IF NEW.name = 'bad' THEN RAISE EXCEPTION 'not here'; END IF;"),
            "not here",
        ),
        (_TRIGGER.format(body="PERFORM 1 / (NEW.name <> 'bad')::int;"), "division by zero"),
        (_TRIGGER.format(body="IF NEW.name = 'bad' THEN RETURN NULL; END IF;"), "does not keep them"),
        ("ALTER TABLE datastorage.audit_records ALTER COLUMN name TYPE varchar(20)", "value too long"),
    ],
    ids=["constraint", "raises", "divides by zero", "drops the row", "narrower column"],
)
async def test_a_rule_that_a_person_added_rejects_nothing(
    storing: Storing, owner: Any, rule: str, said: str
) -> None:
    await owner.execute(rule)
    name = "bad" if said != "value too long" else "b" * 40
    storing.offer(audit_record(name=name), *(audit_record() for _ in range(GOOD)))
    await eventually(lambda: len(storing.outcomes) == GOOD)
    assert set(storing.phases().values()) == {"StoredRecord"}

    async def reported() -> bool:
        return said in (await storing.aside.problem() or "")

    await eventually(reported)
    assert await owner.fetchval("SELECT count(*) FROM datastorage.rejected_objects") == 0


@pytest.mark.parametrize(
    ("breaks", "mends", "said"),
    [
        (
            "REVOKE INSERT ON datastorage.audit_records FROM datastorage_service",
            "GRANT INSERT ON datastorage.audit_records TO datastorage_service",
            "permission denied for table audit_records",
        ),
        (
            "ALTER TABLE datastorage.embedding_texts RENAME TO gone",
            "ALTER TABLE datastorage.gone RENAME TO embedding_texts",
            'relation "datastorage.embedding_texts" does not exist',
        ),
        (
            "ALTER TABLE datastorage.action_traces ADD CONSTRAINT theirs CHECK (false)",
            "ALTER TABLE datastorage.action_traces DROP CONSTRAINT theirs",
            "theirs",
        ),
        (
            _TRIGGER.format(body="RAISE EXCEPTION 'closed';"),
            _HARMLESS,
            "closed",
        ),
    ],
    ids=["right", "table", "constraint", "trigger"],
)
async def test_a_server_that_refuses_everything_is_waited_for(
    storing: Storing, owner: Any, breaks: str, mends: str, said: str
) -> None:
    await owner.execute(breaks)
    storing.offer(*(audit_record() for _ in range(GOOD)), action_trace())
    await eventually(lambda: said in (storing.breaker.reason or ""))
    await owner.execute(mends)
    await eventually(lambda: len(storing.outcomes) == GOOD + 1)
    assert set(storing.phases().values()) == {"StoredRecord"}
    assert storing.breaker.reason is None


async def test_a_locked_table_is_the_server_s_state(
    storing: Storing, owner: Any, cloned: TestDatabase
) -> None:
    await limit(owner, cloned, "lock_timeout", "100ms")
    await owner.execute("BEGIN; LOCK TABLE datastorage.audit_records IN ACCESS EXCLUSIVE MODE")
    storing.offer(*(audit_record() for _ in range(GOOD)))
    await eventually(lambda: "lock timeout" in (storing.breaker.reason or ""))
    await owner.execute("ROLLBACK")
    await eventually(lambda: len(storing.outcomes) == GOOD)
    assert await storing.aside.problem() is None


async def test_many_records_that_break_a_rule_do_not_hold_up_others(storing: Storing, owner: Any) -> None:
    """A rule is not a limit of size: in smaller and smaller batches, each of them would delay others."""
    await owner.execute(
        "ALTER TABLE datastorage.audit_records ADD CONSTRAINT theirs CHECK (name NOT LIKE 'bad%')"
    )
    storing.offer(*(audit_record(name=f"bad-{n}") for n in range(1500)))
    storing.offer(audit_record(name="good"))
    await eventually(lambda: "good" in storing.outcomes)
    assert set(storing.outcomes) == {"good"}


@pytest.mark.parametrize("broken", Table)
@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (
            "REVOKE INSERT ON datastorage.{table} FROM datastorage_service",
            "permission denied for table {table}",
        ),
        (
            "ALTER TABLE datastorage.{table} RENAME COLUMN namespace TO gone",
            '"namespace" of relation "{table}"',
        ),
        ("ALTER TABLE datastorage.{table} ADD CONSTRAINT theirs CHECK (false)", "theirs"),
        (
            "BEGIN; LOCK TABLE datastorage.{table} IN ACCESS EXCLUSIVE MODE",
            "one record in {table}",
        ),
    ],
    ids=["right", "column", "constraint", "lock"],
)
async def test_a_trial_of_one_table_says_nothing_about_the_other(
    database: Database, owner: Any, broken: Table, breaks: str, said: str
) -> None:
    trial, [works] = Trial(database), set(Table) - {broken}
    await partitions.prepare(database)  # as a running operator has done; it needs both tables
    await owner.execute(breaks.format(table=broken))
    await trial.write([works])
    await trial.write_shared()
    with pytest.raises(TransientError, match=said.format(table=broken)):
        await trial.write([broken])


@pytest.mark.parametrize("table", ["embedding_texts", "vector_outbox"])
async def test_a_trial_of_what_all_kinds_need_fails_with_it(
    database: Database, owner: Any, table: str
) -> None:
    await Trial(database).write_shared()
    await owner.execute(f"ALTER TABLE datastorage.{table} RENAME TO gone")
    with pytest.raises(TransientError, match=table):
        await Trial(database).write_shared()
    await owner.execute(f"ALTER TABLE datastorage.gone RENAME TO {table}")
    for kept in ("embedding_texts", "vector_outbox", *Table):
        assert await owner.fetchval(f"SELECT count(*) FROM datastorage.{kept}") == 0, "all is undone"


async def test_the_server_is_probed_without_the_tables_of_the_rows(database: Database, owner: Any) -> None:
    for table in Table:
        await owner.execute(f"REVOKE INSERT ON datastorage.{table} FROM datastorage_service")
    archive = Archive(database)
    await archive.probe_server()
    with pytest.raises(TransientError, match="permission denied"):
        await archive.probe()
    await owner.execute("REVOKE INSERT ON datastorage.embedding_texts FROM datastorage_service")
    with pytest.raises(TransientError, match="permission denied for table embedding_texts"):
        await archive.probe_server()
