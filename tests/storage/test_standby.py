"""Questions of the REST API to a streaming standby: how far it lags, what it lacks, how to do without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from datastorage import metrics
from datastorage.assembly.queries import build_queries
from datastorage.errors import InvalidQueryError, TransientError, WorkRefusedError
from datastorage.query.filters import Filter
from datastorage.query.listedrecord import ListPage
from datastorage.query.questions import ArchiveQueries
from datastorage.query.standby import Pace as StandbyPace
from datastorage.query.standby import Standby
from datastorage.query.standbyqueries import Pace, StandbyQueries
from datastorage.resilience.cancellation import end_tasks
from datastorage.runtime.checks import standby_notes
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import EVERYTHING
from datastorage.storage.replication import state_of
from datastorage.storage.schema import STANDBY
from datastorage.storage.write import Archive
from harness.apiclient import Answer
from harness.objects import audit_record, record_of
from harness.polling import eventually
from harness.postgres import connect
from harness.proxy import FreezableProxy
from tests.support.apiserved import Served, served
from tests.support.serverpair import ServerPair, server_pair

LAG = "datastorage-replica-lag"
QUICK = StandbyPace(seconds=0.05, pause_seconds=0.01, answer_seconds=5.0)


@pytest.fixture(scope="module")
def pair() -> Iterator[ServerPair]:
    with server_pair() as made:
        yield made


class Asked:
    """The API with a standby, as the operator builds it."""

    def __init__(self, pair: ServerPair, standby_url: str, pace: Pace, standby_pace: StandbyPace) -> None:
        self.pair = pair
        url = pair.database.service_url
        self.databases = {
            "writes": Database(url, pool_size=2),
            "primary": Database(url, pool_size=3),
            "primary state": Database(url, pool_size=1),
            "standby": Database(standby_url, pool_size=3, chain=STANDBY),
            "standby state": Database(standby_url, pool_size=1, chain=STANDBY),
        }
        self.state = Standby(
            partial(state_of, self.databases["primary state"]),
            partial(state_of, self.databases["standby state"]),
            pace=standby_pace,
        )
        self.pace = pace
        self.watching = asyncio.create_task(self.state.run())

    def queries(self, on_standby: ArchiveQueries | None = None) -> StandbyQueries:
        standby = on_standby or build_queries(self.databases["standby"])
        return StandbyQueries(standby, build_queries(self.databases["primary"]), self.state, self.pace)

    async def store(self, **metadata: Any) -> str:
        """Store a record on the primary; return its uid."""
        body = audit_record(**metadata)
        await Archive(self.databases["writes"]).write([record_of(body)])
        return str(body["metadata"]["uid"])

    async def ready(self) -> str | None:
        return await standby_notes(self.state)["standby"]()


@asynccontextmanager
async def asking(
    pair: ServerPair,
    standby_url: str | None = None,
    pace: Pace = Pace(),
    standby_pace: StandbyPace = QUICK,
) -> AsyncIterator[Asked]:
    made = Asked(pair, standby_url or pair.on_standby.service_url, pace, standby_pace)
    try:
        yield made
    finally:
        await end_tasks([made.watching])
        await made.state.close()
        for database in made.databases.values():
            await database.close()


@pytest_asyncio.fixture
async def asked(pair: ServerPair) -> AsyncIterator[Asked]:
    async with asking(pair) as made:
        await eventually(lambda: made.state.problem is None and made.state.reached_at is not None)
        yield made


@asynccontextmanager
async def paused(pair: ServerPair) -> AsyncIterator[None]:
    """Let the standby apply nothing until the end of the block."""
    connection = await connect(pair.on_standby.owner_url)
    try:
        await connection.execute("SELECT pg_wal_replay_pause()")

        async def is_paused() -> bool:
            return bool(await connection.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

        await eventually(is_paused)
        yield
    finally:
        await connection.execute("SELECT pg_wal_replay_resume()")
        await connection.close()


def lag_of(answer: Answer) -> float:
    assert answer.status == 200, answer.content
    return float(answer.headers[LAG])


async def uids(api: Served, namespace: str) -> list[str]:
    answer = await api.send("GET", f"/query/records?namespace={namespace}")
    return [item["uid"] for item in answer.json["items"]]


def skipped(reason: str) -> float:
    return float(
        metrics.STANDBY_SKIPPED.labels(metrics.SkipReason(reason))._value.get()
    )  # the library shows a value nowhere else


async def test_each_answer_says_how_far_the_standby_lags(asked: Asked, pair: ServerPair) -> None:
    async with served(asked.queries()) as api:
        uid = await asked.store(namespace="lag")

        async def has_arrived() -> bool:
            return await uids(api, "lag") == [uid]

        await eventually(has_arrived)
        async with paused(pair):
            late = await asked.store(namespace="lag")
            # The standby never reaches what was committed after the pause, so the lag only grows.
            await eventually(lambda: (asked.state.lag_since(asked.state.reached_at) or 0) > 1)
            answers = [
                await api.send("GET", path)
                for path in ("/query/records?namespace=lag", "/timeline/rr-none?namespace=lag",
                             "/query/semantic?mode=text&q=checkout&namespace=lag", f"/query/records/{uid}")
            ]  # fmt: skip
            assert min(map(lag_of, answers)) > 1
            assert lag_of(answers[0]) <= lag_of(answers[1]) <= lag_of(answers[2]) <= lag_of(answers[3])
            await eventually(lambda: metrics.REPLICA_LAG._value.get() > 1)
            assert [item["uid"] for item in answers[0].json["items"]] == [uid]

        async def has_caught_up() -> bool:
            return await uids(api, "lag") == [late, uid]

        await eventually(has_caught_up)
        await eventually(lambda: (asked.state.lag_since(asked.state.reached_at) or 9) < 1)


async def test_what_was_just_stored_is_found_by_its_uid(asked: Asked, pair: ServerPair) -> None:
    async with served(asked.queries()) as api, paused(pair):
        before = skipped("not_found")
        uid = await asked.store(namespace="fresh")
        assert await uids(api, "fresh") == []
        found = await api.send("GET", f"/query/records/{uid}?namespace=fresh")
        assert (found.status, found.json["uid"], lag_of(found)) == (200, uid, 0.0)
        other = await api.send("GET", f"/query/records/{uid}?namespace=another")
        assert other.status == 404
        assert skipped("not_found") == before + 2


async def test_a_page_of_the_primary_is_continued_where_the_standby_lacks_its_row(
    asked: Asked, pair: ServerPair
) -> None:
    async with paused(pair):
        stored = [await asked.store(namespace="pages") for _ in range(3)]
        page = await build_queries(asked.databases["primary"]).list(Filter(namespace="pages"), limit=1)
        archive = asked.queries()
        rest = await archive.list_page(
            Filter(namespace="pages"), limit=5, cursor=page.cursor, with_content=False, scope=EVERYTHING
        )
        found = [
            *(record.uid for record in page.records),
            *(item.outline.place.key.uid for item in rest.items),
        ]
        assert found == stored[::-1]
        with pytest.raises(InvalidQueryError):
            await archive.list_page(
                Filter(), limit=5, cursor=page.cursor, with_content=False, scope=EVERYTHING
            )


async def test_without_the_standby_the_primary_answers_a_few_questions(pair: ServerPair) -> None:
    async with asking(pair) as asked, served(asked.queries()) as api:
        await eventually(lambda: asked.state.problem is None)
        assert await asked.ready() is None
        uid = await asked.store(namespace="away")
        await asyncio.to_thread(pair.standby.stop)
        try:
            assert await uids(api, "away") == [uid]
            await eventually(lambda: asked.state.problem is not None)
            assert "standby of PostgreSQL" in (await asked.ready() or "")
            assert "the primary answers a few questions" in (await asked.ready() or "")
            assert lag_of(await api.send("GET", "/query/records?namespace=away")) == 0.0
        finally:
            await asyncio.to_thread(pair.standby.start)
        await eventually(lambda: asked.state.problem is None)
        assert await asked.ready() is None


async def test_the_standby_is_named_where_the_primary_has_no_room(pair: ServerPair) -> None:
    full = Pace(on_primary=0, patience_seconds=0.01)
    async with asking(pair, "postgresql://127.0.0.1:1/none", full) as asked, served(asked.queries()) as api:
        await eventually(lambda: "refused" in (asked.state.problem or ""))
        answer = await api.send("GET", "/query/records?namespace=x")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "the standby of PostgreSQL at 127.0.0.1:1" in answer.json["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert LAG not in answer.headers


async def test_a_standby_that_is_silent_holds_no_question(pair: ServerPair) -> None:
    pace = StandbyPace(seconds=0.05, pause_seconds=0.01, answer_seconds=0.5)
    async with (
        FreezableProxy(pair.on_standby.service_url) as proxy,
        asking(pair, proxy.url, standby_pace=pace) as asked,
    ):
        await eventually(lambda: asked.state.problem is None)
        async with served(asked.queries()) as api:
            uid = await asked.store(namespace="silent")
            paths = ["/query/records?namespace=silent", f"/query/records/{uid}?namespace=silent"]
            for path in paths:
                assert (await api.send("GET", path)).status == 200
            proxy.freeze()
            # The time-out of a statement is half a minute, of a request ten seconds.
            answers = await asyncio.gather(*(api.send("GET", path) for path in paths))
            assert [lag_of(answer) for answer in answers] == [0.0, 0.0]
            # Several looks find the standby away while the question gives its connection back.
            await eventually(lambda: asked.state.problem is not None)
            proxy.thaw()
            await eventually(lambda: asked.state.problem is None)
            assert (await api.send("GET", "/query/records?namespace=x")).status == 200
            assert not asked.watching.done()


class SleepingQueries(ArchiveQueries):
    """A list that takes as long as the server lets it."""

    def __init__(self, database: Database) -> None:
        inner = build_queries(database)
        super().__init__(
            inner._reader, inner._searcher, inner._summaries
        )  # a question that is slow can't be had otherwise
        self.database = database
        self.failure: BaseException | None = None

    async def list_page(self, *_: Any, **__: Any) -> ListPage:
        try:
            async with self.database.connection() as connection:
                await connection.fetch("SELECT pg_sleep(60), count(*) FROM datastorage.audit_records")
        except BaseException as error:
            self.failure = error
            raise
        raise AssertionError


async def test_a_question_that_the_standby_cancels_goes_to_the_primary(
    asked: Asked, pair: ServerPair
) -> None:
    owner = await connect(pair.on_standby.owner_url)
    await owner.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await owner.execute("SELECT pg_reload_conf()")
    slow = SleepingQueries(asked.databases["standby"])
    archive = asked.queries(slow)
    uid = await asked.store(namespace="conflict")
    asking_ = asyncio.create_task(
        archive.list_page(
            Filter(namespace="conflict"), limit=10, cursor=None, with_content=False, scope=EVERYTHING
        )
    )

    async def has_begun() -> bool:
        return bool(
            await owner.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
            )
        )

    await eventually(has_begun)
    primary = await connect(pair.database.owner_url)
    async with primary.transaction():
        await primary.execute("LOCK TABLE datastorage.audit_records IN ACCESS EXCLUSIVE MODE")
    await primary.close()
    page = await asking_
    assert [item.outline.place.key.uid for item in page.items] == [uid]
    assert isinstance(slow.failure, WorkRefusedError)
    assert "conflict with recovery" in str(slow.failure)
    await owner.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
    await owner.execute("SELECT pg_reload_conf()")
    await owner.close()


async def test_a_question_that_takes_too_long_is_not_put_to_the_primary_as_well(asked: Asked) -> None:
    class TooSlow(SleepingQueries):
        async def list_page(self, *_: Any, **__: Any) -> ListPage:
            async with self.database.connection() as connection:
                await connection.fetch("SELECT pg_sleep(60)", timeout=0.05)
            raise AssertionError

    with pytest.raises(TransientError, match="no answer in time"):
        await asked.queries(TooSlow(asked.databases["standby"])).list_page(
            Filter(), limit=1, cursor=None, with_content=False, scope=EVERYTHING
        )


async def test_another_database_is_no_standby(pair: ServerPair) -> None:
    async with asking(pair, pair.standby.moved(pair.primary.owner_url)) as asked:
        await eventually(lambda: "names another database" in (asked.state.problem or ""))


async def test_the_primary_may_be_named_as_its_own_standby(pair: ServerPair) -> None:
    async with asking(pair, pair.database.service_url) as asked, served(asked.queries()) as api:
        await eventually(lambda: asked.state.problem is None and asked.state.reached_at is not None)
        uid = await asked.store(namespace="same")
        assert await uids(api, "same") == [uid]
