"""A look at several replicas: reading within bounds, sums, and what the view says on 80 columns."""

import asyncio
import io
from datetime import UTC, datetime
from typing import Final

import pytest
from aiohttp import web
from rich.console import Console
from yarl import URL

from datastorage.cli.toprejected import RejectedLine, RejectedLook
from datastorage.cli.topview import drawn
from datastorage.errors import ConfigurationError, TransientError
from datastorage.metrics import (
    DEPENDENCY_UP,
    GC_SCHEDULED,
    GUARD_IN_FORCE,
    HTTP_TOTAL,
    INTAKE_DEPTH,
    LEASE_HELD,
    LIMITS_HIT,
    OUTBOX_DEPTH,
    UNSTORED_OLDEST_SECONDS,
    WRITE_TOTAL,
    Dependency,
    Guard,
    Limit,
    Method,
    WriteStatus,
)
from datastorage.records.record import Table
from datastorage.records.vectorwrite import OutboxState
from datastorage.replicas.history import History, Reading
from datastorage.replicas.look import DependencyLook, LeaseLook, Look, Seen, look_at
from datastorage.replicas.page import Page
from datastorage.replicas.places import NamedPlaces
from datastorage.replicas.reading import Limits, PageReader, metrics_url
from datastorage.replicas.watching import Watching
from tests.support.metricspages import counted, page, page_text, shown

_NOW: Final = datetime.fromtimestamp(1_700_000_060.0, UTC)
_SUCCESS: Final = {"table": Table.AUDIT_RECORDS, "status": WriteStatus.SUCCESS}
_COLUMNS: Final = 80


def _page(stored: float, *, holds: int, embedder_up: float = 1.0, outbox: float = 4.0) -> Page:
    return page(
        counted(WRITE_TOTAL, stored, **_SUCCESS),
        counted(HTTP_TOTAL, stored, http_request_method=Method.GET, http_route="/x",
                http_response_status_code="200"),
        counted(HTTP_TOTAL, stored / 2, http_request_method=Method.GET, http_route="/x",
                http_response_status_code="503"),
        counted(INTAKE_DEPTH, 3),
        counted(GC_SCHEDULED, 1000),
        counted(OUTBOX_DEPTH, outbox, state=OutboxState.PENDING),
        counted(UNSTORED_OLDEST_SECONDS, 10.0 * outbox, table=Table.AUDIT_RECORDS),
        counted(UNSTORED_OLDEST_SECONDS, 1.0, table=Table.ACTION_TRACES),
        counted(DEPENDENCY_UP, 1.0, dependency=Dependency.POSTGRES),
        counted(DEPENDENCY_UP, embedder_up, dependency=Dependency.EMBEDDER),
        counted(LEASE_HELD, float(holds == 0), lease="shard-0-of-3"),
        counted(LEASE_HELD, float(holds == 1), lease="shard-1-of-3"),
        counted(LEASE_HELD, 0.0, lease="shard-2-of-3"),
        counted(GUARD_IN_FORCE, embedder_up, guard=Guard.DELETION),
        counted(GUARD_IN_FORCE, 0.0, guard=Guard.STATUS),
        counted(LIMITS_HIT, 5.0 + stored, limit=Limit.RATE),
        counted(LIMITS_HIT, 0.0, limit=Limit.EXPORTS),
    )  # fmt: skip


def _seen(name: str, *pages: Page, trouble: str | None = None) -> Seen:
    history = History()
    for number, each in enumerate(pages):
        history = history.with_reading(Reading(2.0 * number, each))
    return Seen(name, history, trouble)


def _look() -> Look:
    return look_at(
        [
            _seen("datastorage-6459c4854-f8hqj", _page(0, holds=0), _page(20, holds=0)),
            _seen("datastorage-6459c4854-x2b9z", _page(8, holds=1),
                  _page(12, holds=1, embedder_up=0.0, outbox=7.0)),
            _seen("datastorage-6459c4854-zzzzz", _page(8, holds=2), trouble="Connection refused"),
        ],
        _NOW,
    )  # fmt: skip


def _drawn(look: Look, rejected: RejectedLook | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=_COLUMNS, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(drawn(look, rejected))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_look_adds_up_what_replicas_count_and_takes_once_what_all_of_them_see() -> None:
    look = _look()
    assert (look.answering, look.rate_seconds) == (2, 2.0)
    assert (look.per_second.stored, look.per_second.server_errors) == (12.0, 6.0)
    assert look.per_second.requests == 18.0
    assert (look.depths.intake, look.depths.scheduled_deletions) == (6.0, 2000.0)
    assert (look.depths.outbox_pending, look.lag_seconds.oldest_unstored) == (7.0, 70.0)
    assert look.depths.refused_for_now is None
    assert look.dependencies == (
        DependencyLook("embedder", ("datastorage-6459c4854-x2b9z",)),
        DependencyLook("postgres", ()),
    )
    assert look.leases == (
        LeaseLook("shard-0-of-3", ("datastorage-6459c4854-f8hqj",)),
        LeaseLook("shard-1-of-3", ("datastorage-6459c4854-x2b9z",)),
        LeaseLook("shard-2-of-3", ()),
    )
    assert [(guard.name, guard.in_force) for guard in look.guards] == [
        (Guard.DELETION, True), (Guard.STATUS, False),
    ]  # fmt: skip
    assert [(limit.name, limit.recently, limit.since_start) for limit in look.limits] == [
        (Limit.EXPORTS, 0.0, 0.0), (Limit.RATE, 24.0, 42.0),
    ]  # fmt: skip
    first, _, third = look.replicas
    assert (first.up_seconds, first.stored_per_second, first.leases) == (60.0, 10.0, ("shard-0-of-3",))
    assert (third.trouble, third.intake) == ("Connection refused", None)


def test_the_view_fits_into_80_columns_and_says_what_is_wrong() -> None:
    records = [RejectedLine("2026-03-05T10:00:00Z", "AuditRecord", "shop/one", f"bad\x1b[2J time{'x' * 200}")]
    lines = _drawn(_look(), RejectedLook(records))
    assert max(map(len, lines)) <= _COLUMNS
    assert lines[0] == ("Data Storage  replicas answering: 2 of 3  2023-11-14T22:14:20Z  rates over 2.0 s")
    text = "\n".join(lines)
    for row in (
        "stored         12.0/s  intake               6  stored, p95           -",
        "failed writes   0.0/s  unstored             -  oldest unstored   1m10s",
        "datastorage-6459c4854-f8hqj  1.2.3    1m  10.0/s  15.0/s       3     -",
        "datastorage-6459c4854-zzzzz gives no metrics: Connection refused",
        "DEPENDENCIES  embedder DOWN for datastorage-6459c4854-x2b9z; up: postgres",
        "GUARDS        status-guard NOT in force; in force: deletion-guard",
        "LEASES        shard-0-of-3 held by datastorage-6459c4854-f8hqj",
        "              shard-2-of-3 held by NOBODY who answers",
        "LIMITS HIT    rate 24 in the last 2 s (42 in all)",
        "REJECTED      2026-03-05T10:00:00Z AuditRecord shop/one: bad [2J",
    ):
        assert row in text
    assert f"time{'x' * 62}" in text
    assert text.endswith("xxx…")
    assert "\x1b[2J" not in text


def test_nothing_is_taken_for_zero_where_nobody_answers() -> None:
    look = look_at([_seen("one", trouble="no answer in time")], _NOW)
    text = "\n".join(_drawn(look, RejectedLook(trouble="PostgreSQL can't be reached")))
    assert "replicas answering: 0 of 1" in text
    assert "0.0/s" not in text
    assert "DEPENDENCIES  -" in text
    assert "REJECTED      PostgreSQL can't be reached" in text
    assert look.as_json()["perSecond"]["stored"] is None


async def test_a_replica_that_is_away_is_shown_as_such_and_comes_back() -> None:
    answers: list[web.StreamResponse] = []
    counts = iter((10, 30))
    async with shown(lambda: answers.pop(0)) as url, PageReader() as reader:
        clock = iter((0.0, 10.0))
        watching = Watching(NamedPlaces([url / "metrics"]), reader, lambda: next(clock))

        def healthy() -> web.Response:
            return web.Response(text=page_text(counted(WRITE_TOTAL, next(counts), **_SUCCESS)))

        answers += [healthy(), web.Response(status=503), healthy()]
        looks = [await watching.look() for _ in range(3)]
    assert [look.answering for look in looks] == [1, 0, 1]
    assert looks[1].replicas[0].trouble == "it answers 503"
    assert looks[2].per_second.stored == 2.0  # over the outage, too


@pytest.mark.parametrize(
    ("limits", "text", "why"),
    [
        (Limits(page_bytes=100), "x" * 101, "more than 100 bytes"),
        (Limits(), "<html>hello</html>", "no page of metrics"),
    ],
)
async def test_a_page_is_bounded(limits: Limits, text: str, why: str) -> None:
    async with shown(lambda: web.Response(text=text)) as url, PageReader(limits) as reader:
        with pytest.raises(TransientError, match=why):
            await reader.read(url / "metrics")


async def test_a_port_without_metrics_is_answered_with_the_setting_of_the_right_one() -> None:
    async with shown(lambda: web.Response(text="")) as url, PageReader() as reader:
        with pytest.raises(TransientError, match=r"answers 404.*DATASTORAGE_METRICS_PORT"):
            await reader.read(url / "of-the-api")


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, PageReader(Limits(seconds=0.05)) as reader:
        with pytest.raises(TransientError, match="no answer in time"):
            await reader.read(URL(f"http://127.0.0.1:{port}/metrics"))


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9090", "ftp://host", "http://", "http://user:hunter2@host:1", "http://h:x"]
)
def test_a_wrong_url_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--metrics-url must be") as caught:
        metrics_url(text)
    assert "hunter2" not in str(caught.value)


def test_the_path_of_a_url_may_be_left_out() -> None:
    assert str(metrics_url("http://host:9090")) == "http://host:9090/metrics"
    assert str(metrics_url("http://host:9090/own")) == "http://host:9090/own"
