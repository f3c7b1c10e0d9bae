"""Traces: the spans of a record, where they stand, and that nothing is loaded without a collector."""

import asyncio
import hashlib
import logging
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from prometheus_client.openmetrics.exposition import generate_latest

from datastorage import metrics
from datastorage.errors import WorkRefusedError
from datastorage.logs import traces_named
from datastorage.pipeline.measuring import Attempts
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.resources.reading.registry import correlation_id_of
from datastorage.tracing import (
    NO_TRACES,
    RequestTrace,
    Step,
    TakenIn,
    Traces,
    exporting,
    open_traces,
)
from datastorage.tracing.identity import first_span_of, trace_id_of
from datastorage.tracing.sdk import SdkTraces
from harness.absent import as_in_image
from harness.collector import Collector
from harness.objects import audit_record
from harness.polling import until
from harness.ports import free_port
from harness.servingcertificates import Authority

STORED_AT = datetime(2026, 3, 5, 10, 20, 31, tzinfo=UTC)
WRITTEN = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN)
PENDING = VectorWrite(WriteState.PENDING, Reason.EMBEDDER_UNAVAILABLE, "password in a text")
CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
# The libraries that only traces need. FastAPI itself loads the API of OpenTelemetry, without its SDK.
_PROGRAM = """
import sys
import fastapi
before = {name for name in sys.modules if name.startswith("opentelemetry")}
import datastorage.cli.operator, datastorage.runtime.run
from datastorage.tracing import NO_TRACES, open_traces
import asyncio
async def opened():
    async with open_traces() as traces:
        assert traces is NO_TRACES
asyncio.run(opened())
after = {name for name in sys.modules if name.startswith("opentelemetry")}
print(*sorted(after - before))
print(*sorted(sys.modules.keys() & {"opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf"}))
known = {"datastorage.tracing." + name for name in ("identity", "interface", "opening")}
print(*sorted(name for name in sys.modules if name.startswith("datastorage.tracing.") and name not in known))
"""
_OPENED = """
import asyncio
from datastorage.logs import configure_logging
from datastorage.tracing import NO_TRACES, open_traces
async def opened():
    async with open_traces() as traces:
        print(traces is NO_TRACES)
configure_logging("INFO", "json")
asyncio.run(opened())
"""


@dataclass(frozen=True)
class Item:
    record: Record
    taken_in: TakenIn | None


class Made:
    """Traces whose spans stay in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.traces = SdkTraces(SimpleSpanProcessor(self._exporter), Resource({}), exporting.Collector())

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return Made()


def record(name: str = "one") -> Record:
    return record_of(AUDIT_RECORD, audit_record(name=name))


def row(*, vector: VectorWrite = WRITTEN, is_new: bool = True) -> StoredRecord:
    return StoredRecord(b"", STORED_AT, vector, is_new=is_new)


def context(span: ReadableSpan) -> tuple[int, int]:
    found = span.get_span_context()
    assert found is not None
    return found.trace_id, found.span_id


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def request_of(traces: Traces, *, is_sampled: bool = True) -> RequestTrace:
    made = traces.request(*CALLER, is_sampled=is_sampled)
    assert made is not None
    return made


async def commit(traces: Traces, items: Sequence[Item], rows: Sequence[StoredRecord]) -> None:
    async def store(_: Sequence[Record]) -> list[StoredRecord]:
        traces.embedding_begins()
        return list(rows)

    await Attempts(store, [item.record for item in items], traces.commit(items))()


def test_without_a_collector_nothing_of_it_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120,
        env=as_in_image({"PATH": "/usr/bin:/bin"}),
    )  # fmt: skip
    assert done.stdout.splitlines() == ["", "", ""], done.stdout


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({**COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
        ({**COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**COLLECTOR, "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp or none"),
        (
            {**COLLECTOR, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the protocol must be http/protobuf, on the port 4318 of most collectors",
        ),
    ],
)
async def test_these_environments_make_no_traces_and_the_log_says_which_is_a_mistake(
    environment: dict[str, str], why: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_traces(environment) as traces:
        assert traces is NO_TRACES
    logged = [] if why is None else [f"Starting without traces: {why}"]
    assert [entry.getMessage() for entry in caplog.records] == logged


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
async def test_a_variable_that_the_library_refuses_is_logged_and_makes_no_traces(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one is read for the sending, the other for the making."""
    for name, value in (*COLLECTOR.items(), (variable, "-1")):
        monkeypatch.setenv(name, value)
    async with open_traces() as traces:
        assert traces is NO_TRACES
    assert [entry.getMessage() for entry in caplog.records] == [
        "Starting without traces: the OTEL_ variables can't be used (ValueError)"
    ]


@pytest.mark.parametrize("name", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT"])
def test_a_variable_that_the_library_refuses_makes_no_traces(name: str) -> None:
    """Of these two, it reads one as it is loaded, and the other as traces are made."""
    done = subprocess.run(
        [sys.executable, "-c", _OPENED], capture_output=True, text=True, check=True, timeout=120,
        env=as_in_image({"PATH": "/usr/bin:/bin", **COLLECTOR, name: "in-secret"}),
    )  # fmt: skip
    assert done.stdout == "True\n"
    assert "Starting without traces: the OTEL_ variables can't be used (ValueError)" in done.stderr
    assert "in-secret" not in done.stderr


def test_the_trace_of_a_uid_is_the_begin_of_its_hash() -> None:
    uid = "4f0fd0b0-a4c7-46a5-b1c2-d3e4f5061728"
    assert f"{trace_id_of(uid):032x}" == hashlib.sha256(uid.encode()).hexdigest()[:32]
    assert first_span_of(uid, 1).trace_id == first_span_of(uid, 2).trace_id == trace_id_of(uid)
    assert first_span_of(uid, 1).span_id != first_span_of(uid, 2).span_id


@pytest.mark.parametrize("make", [uuid.uuid4, uuid.uuid1], ids=["random", "of the time"])
def test_a_sampler_by_ratio_records_its_share_of_uids(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
    traces = Made().traces
    share = sum(traces.trace_id(str(make())) is not None for _ in range(3000)) / 3000
    assert 0.07 < share < 0.13


async def test_a_record_of_the_cluster_has_one_trace_to_its_deletion(made: Made) -> None:
    traces, mine, other = made.traces, record("one"), record("two")
    key = mine.key
    items = [Item(mine, traces.taken_in()), Item(other, traces.taken_in())]
    await commit(traces, items, [row(vector=PENDING), row()])
    await asyncio.sleep(0)
    traces.vector_settled(key.uid, 1, WriteState.WRITTEN, traces.now_ns())
    for step in Step:
        with traces.step(step, key.uid, 1, lambda: {"object_name": "one", "object_uid": key.uid}):
            pass
    own = [span for span in made.spans if context(span)[0] == trace_id_of(key.uid)]
    first = next(span for span in own if span.parent is None)
    assert (first.name, context(first)) == (
        "store AuditRecord",
        (trace_id_of(key.uid), first_span_of(key.uid, 1).span_id),
    )
    assert sorted(span.name for span in own if span is not first) == [
        "commit", "delete object", "wait", "write status", "write vector", "write vector",
    ]  # fmt: skip
    assert {parent(span) for span in own if span is not first} == {context(first)[1]}
    batch = made.one("commit batch")
    assert attributes(batch)["db.operation.batch.size"] == 2
    assert context(first) in links(batch)
    assert len(links(batch)) == 2
    assert all(links(span) == [context(batch)] for span in made.named("commit"))
    assert attributes(first)["datastorage.record.correlation_id"] == correlation_id_of(mine)
    assert attributes(first)["datastorage.record.uid"] == key.uid
    vectors = [span for span in own if span.name == "write vector"]
    states = [attributes(span)["datastorage.vector.state"] for span in vectors]
    assert states == ["Pending", "Written"]
    wait, committed = (next(span for span in own if span.name == name) for name in ("wait", "commit"))
    assert (wait.start_time, wait.end_time) == (first.start_time, committed.start_time)
    assert committed.end_time == vectors[0].end_time == first.end_time
    assert (vectors[0].start_time or 0) > (committed.start_time or 0), "the embedder is asked in the commit"


async def test_a_repetition_is_a_child_of_the_first_span(made: Made) -> None:
    mine = record()
    await commit(made.traces, [Item(mine, made.traces.taken_in())], [row(is_new=False)])
    first = first_span_of(mine.key.uid, 1)
    repeated = made.one("store AuditRecord")
    assert (context(repeated)[0], parent(repeated)) == (first.trace_id, first.span_id)
    assert context(repeated)[1] != first.span_id
    assert attributes(repeated)["datastorage.record.repeated"] is True


async def test_a_record_that_differs_from_the_archive_says_so(made: Made) -> None:
    rows = [replace(row(), diverged=True), row()]
    items = [Item(record(name), made.traces.taken_in()) for name in ("one", "two")]
    await commit(made.traces, items, rows)
    differs = [
        attributes(span).get("datastorage.record.diverged") for span in made.named("store AuditRecord")
    ]
    assert differs == [True, None]


async def test_a_single_record_of_a_request_is_in_the_trace_of_its_caller(made: Made) -> None:
    traces = made.traces
    request = request_of(traces)
    await commit(traces, [Item(record(), traces.taken_in(request, is_single=True))], [row()])
    traces.answered(
        request, method="POST", route="/api/v1/store/{type}", path="/api/v1/store/execution", scheme="http",
        status=201,
    )  # fmt: skip
    server = made.one("POST /api/v1/store/{type}")
    assert (context(server)[0], parent(server)) == (int(CALLER[0], 16), int(CALLER[1], 16))
    stored = made.one("store AuditRecord")
    assert (context(stored)[0], parent(stored)) == context(server)
    assert {context(span)[0] for span in made.spans if span.name != "commit batch"} == {int(CALLER[0], 16)}
    assert attributes(server) == {
        "http.request.method": "POST", "http.route": "/api/v1/store/{type}", "http.response.status_code": 201,
        "url.path": "/api/v1/store/execution", "url.scheme": "http",
    }  # fmt: skip


async def test_what_follows_such_a_record_is_linked(made: Made) -> None:
    traces, mine = made.traces, record()
    request = request_of(traces)
    await commit(traces, [Item(mine, traces.taken_in(request, is_single=True))], [row(vector=PENDING)])
    traces.vector_settled(mine.key.uid, 1, WriteState.FAILED, traces.now_ns())
    first = first_span_of(mine.key.uid, 1)
    stored = {context(span)[0]: span for span in made.named("store AuditRecord")}
    assert links(stored[first.trace_id]) == [context(stored[int(CALLER[0], 16)])]
    assert (first.trace_id, first.span_id) in links(made.one("commit"))
    later = next(span for span in made.named("write vector") if context(span)[0] == first.trace_id)
    assert parent(later) == first.span_id
    assert not later.status.is_ok


async def test_the_records_of_a_batch_have_traces_of_their_own_with_links_to_the_request(made: Made) -> None:
    traces = made.traces
    request = request_of(traces)
    records = [record("one"), record("two")]
    taken_in = traces.taken_in(request)
    await commit(traces, [Item(each, taken_in) for each in records], [row(), row()])
    stored = made.named("store AuditRecord")
    assert {context(span)[0] for span in stored} == {trace_id_of(each.key.uid) for each in records}
    assert all(links(span) == [(int(CALLER[0], 16), int(request.span_id, 16))] for span in stored)


async def test_a_caller_that_records_nothing_makes_no_spans(made: Made) -> None:
    traces = made.traces
    request = request_of(traces, is_sampled=False)
    for is_single in (True, False):
        await commit(traces, [Item(record(), traces.taken_in(request, is_single=is_single))], [row()])
    traces.answered(request, method="POST", route="/api/x", path="/api/x", scheme="http", status=500)
    assert made.spans == ()


@pytest.mark.parametrize(("is_sampled", "count"), [(True, 1), (False, 0)])
async def test_the_object_that_stands_for_a_request_is_linked(
    made: Made, *, is_sampled: bool, count: int
) -> None:
    traces = made.traces
    request = request_of(traces, is_sampled=is_sampled)
    fields = {"object_name": "one", "object_uid": "uid"}
    traces.object_created(request, "uid", 1, lambda: fields, traces.now_ns())
    traces.object_created(None, "uid", 1, lambda: fields, traces.now_ns())
    assert len(made.spans) == count
    for span in made.spans:
        assert (context(span)[0], parent(span)) == (int(CALLER[0], 16), int(request.span_id, 16))
        first = first_span_of("uid", 1)
        assert links(span) == [(first.trace_id, first.span_id)]
        assert attributes(span)["datastorage.record.uid"] == "uid"


async def test_an_error_is_named_by_its_class_alone(made: Made) -> None:
    traces = made.traces
    secret = "postgresql://service:secret@db"  # of nobody

    async def refuse(_: Sequence[Record]) -> list[StoredRecord]:
        raise WorkRefusedError(secret)

    items = [Item(record(), traces.taken_in())]
    with pytest.raises(WorkRefusedError):
        await Attempts(refuse, [items[0].record], traces.commit(items))()
    with pytest.raises(ValueError, match="secret"), traces.step(Step.STATUS, "uid", 1, dict):
        raise ValueError(secret)
    traces.rejected(items[0])
    failed = [(span.name, attributes(span)["error.type"]) for span in made.spans]
    assert failed == [
        ("commit batch", "WorkRefusedError"),
        ("write status", "ValueError"),
        ("store AuditRecord", "RecordRejected"),
    ]
    assert not any(span.status.is_ok for span in made.spans)
    assert all("secret" not in span.to_json() for span in made.spans)


class _BrokenStart(SpanProcessor):
    def on_start(self, *_: Any, **__: Any) -> None:
        raise OSError("no disk for spans")


class _BrokenEnd(SpanProcessor):
    def on_end(self, *_: Any) -> None:
        raise OSError("no disk for spans")


class _BrokenSampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise OSError("no disk for rules")

    def get_description(self) -> str:
        return "broken"


@pytest.mark.parametrize("broken", [_BrokenStart, _BrokenEnd, _BrokenSampler])
async def test_spans_that_can_not_be_made_change_nothing(
    broken: Callable[[], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = broken()
    if isinstance(fault, Sampler):
        monkeypatch.setattr("opentelemetry.sdk.trace.sampling._get_from_env_or_default", lambda: fault)
    processor = fault if isinstance(fault, SpanProcessor) else SpanProcessor()
    traces = SdkTraces(processor, Resource({}), exporting.Collector())
    item = Item(record(), traces.taken_in())
    await commit(traces, [item], [row()])
    traces.rejected(item)
    traces.vector_settled("uid", 1, WriteState.WRITTEN, traces.now_ns())
    request = traces.request(*CALLER, is_sampled=True)
    traces.object_created(request, "uid", 1, dict, traces.now_ns())
    if request is not None:
        traces.answered(request, method="POST", route="/api/x", path="/api/x", scheme="http", status=200)
    with traces.step(Step.STATUS, "uid", 1, dict):
        pass
    with pytest.raises(ValueError, match="mine"), traces.step(Step.STATUS, "uid", 1, dict):
        raise ValueError("mine")
    with traces_named(traces.trace_id):
        logging.getLogger("datastorage").warning("about an object", extra={"object_uid": "uid"})

    async def refuse(_: Sequence[Record]) -> list[StoredRecord]:
        raise WorkRefusedError("its own error")

    with pytest.raises(WorkRefusedError):
        await Attempts(refuse, [item.record], traces.commit([item]))()
    assert [each.levelname for each in caplog.records] == ["ERROR", "WARNING"], "logged once"


async def test_a_sampler_that_fails_records_nothing_and_is_logged_once(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no rules for samples")

    monkeypatch.setattr(made.traces._recorder._sampler, "should_sample", fail)
    assert made.traces.request(*CALLER, is_sampled=True) is None
    assert made.traces.trace_id("uid") is None
    with made.traces.step(Step.STATUS, "uid", 1, dict):
        pass
    assert made.spans == ()
    assert [each.levelname for each in caplog.records] == ["ERROR"]


async def test_samples_of_histograms_name_their_trace(made: Made) -> None:
    mine = record()
    await commit(made.traces, [Item(mine, made.traces.taken_in())], [row()])
    page = generate_latest(metrics.REGISTRY).decode()  # type: ignore[no-untyped-call]
    trace = f'trace_id="{trace_id_of(mine.key.uid):032x}"'
    batch = f'trace_id="{context(made.one("commit batch"))[0]:032x}"'
    for name, wanted in (
        ("datastorage_created_to_stored_seconds", trace),
        ("datastorage_write_duration_seconds", batch),
    ):
        lines = [line for line in page.splitlines() if line.startswith(f"{name}_bucket") and wanted in line]
        assert len(lines) == 1, name


@pytest.fixture
async def sending(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Collector, Traces]]:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")  # the collector answers at once
        async with open_traces() as traces:
            yield collector, traces


def make_span(traces: Traces) -> None:
    with traces.step(Step.STATUS, "uid", 1, dict):
        pass


def spans_that_are(outcome: metrics.SpanOutcome) -> float:
    found = metrics.REGISTRY.get_sample_value("datastorage_trace_spans_total", {"outcome": outcome})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("status", "refused", "problem"),
    [
        (302, 0, "the collector answers with 302"),
        (200, 9_000_000_000, "the collector refuses the spans"),
    ],
)
async def test_spans_that_the_collector_did_not_take_count_as_failed(
    sending: tuple[Collector, Traces], status: int, refused: int, problem: str
) -> None:
    collector, traces = sending
    collector.status, collector.refused = status, refused
    sent, failed = (
        spans_that_are(outcome) for outcome in (metrics.SpanOutcome.SENT, metrics.SpanOutcome.FAILED)
    )
    make_span(traces)

    async def shown() -> bool:
        return await traces.problem() == problem

    await until(shown, what="the problem is shown")
    assert spans_that_are(metrics.SpanOutcome.SENT) == sent
    assert spans_that_are(metrics.SpanOutcome.FAILED) == failed + 1


async def test_an_endless_answer_is_not_read(sending: tuple[Collector, Traces]) -> None:
    collector, traces = sending
    collector.is_endless = True

    async def asked() -> bool:
        make_span(traces)
        return collector.requests >= 3

    await until(asked, what="the exporter goes on")
    assert collector.endless_bytes < 3 * 16 * 1024 * 1024, "no more than what sockets hold"


def test_a_close_that_ends_after_the_loop_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    ended = threading.Event()

    class Slow:
        def shutdown(self) -> None:
            ended.wait()

    asyncio.run(exporting.close(cast("Any", Slow()), exporting.Pace(close_seconds=0.01)))
    [thread] = [thread for thread in threading.enumerate() if thread.name == "traces-close"]
    ended.set()
    thread.join(timeout=20)
    assert not raised


async def test_a_refusing_collector_is_logged_once_and_shown(
    sending: tuple[Collector, Traces], caplog: pytest.LogCaptureFixture
) -> None:
    collector, traces = sending
    collector.status = 401

    async def asked(times: int) -> bool:
        make_span(traces)
        return collector.requests >= times

    caplog.set_level(logging.INFO)
    await until(lambda: asked(3), what="three exports have failed")
    assert await traces.problem() == "the collector answers with 401"
    collector.status = 200

    async def works() -> bool:
        make_span(traces)
        return await traces.problem() is None

    await until(works, what="an export has succeeded")
    sent = collector.requests
    await until(lambda: asked(sent + 3), what="further exports have succeeded")
    assert await traces.problem() is None
    assert [entry.getMessage() for entry in caplog.records] == [
        "Traces can't be sent; until they can, spans are dropped",
        "Traces are sent again",
    ]
    assert cast("Any", caplog.records[0]).error == "the collector answers with 401"


def test_a_collector_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    collector = exporting.Collector()
    for _ in range(100):
        collector.note("the collector answers with 503")
        collector.note(None)
    assert len(caplog.records) == 2
    caplog.clear()
    collector = exporting.Collector(exporting.Patience(log_seconds=0))
    for problem in ("away", "away", None, None, "away"):
        collector.note(problem)
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO", "WARNING"]


async def test_an_export_that_does_not_end_is_shown() -> None:
    collector = exporting.Collector(exporting.Patience(export_seconds=-1))
    assert await collector.problem() is None
    collector.begin()
    assert await collector.problem() == "the collector leaves an export without an end"
    collector.note(None)
    assert await collector.problem() is None


async def test_the_authority_of_the_collector_goes_before_that_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, tls = Authority(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.server("127.0.0.1").write(tmp_path, "collector"))
    for name, pem in (("ours", authority.pem), ("others", Authority("others").pem)):
        (tmp_path / name).write_bytes(pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "others"))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with Collector(tls) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with open_traces() as traces:
            make_span(traces)

            async def refused() -> bool:
                return "certificate verify failed" in (await traces.problem() or "")

            await until(refused, what="the certificate is refused")
        assert not collector.spans
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ours"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
        async with open_traces() as traces:
            make_span(traces)

            async def taken() -> bool:
                return len(collector.spans) == 1

            await until(taken, what="the span is taken")


async def test_a_missing_file_of_authorities_is_named(
    sending: tuple[Collector, Traces], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    collector, _ = sending
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.replace("http:", "https:"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "absent"))
    async with open_traces() as traces:
        make_span(traces)
        problem = await until(traces.problem, what="a problem")
    assert problem == (
        f"the file of its authorities, {tmp_path}/absent, can't be read (No such file or directory)"
    )


async def test_a_directory_of_authorities_is_no_problem_of_its_own(
    sending: tuple[Collector, Traces], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert sending
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"https://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path))
    async with open_traces() as traces:
        make_span(traces)
        problem = await until(traces.problem, what="a problem")
    assert problem.startswith("the collector gives no answer (")


async def test_a_sampler_that_does_not_exist_is_named_in_the_log(
    sending: tuple[Collector, Traces], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All traces are recorded then, which is the most that they can cost."""
    assert sending
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratoi")
    async with open_traces():
        pass
    assert [entry.getMessage() for entry in caplog.records] == [
        "Couldn't recognize sampler parentbased_traceidratoi."
    ]


async def test_the_log_names_the_trace_of_an_object(
    sending: tuple[Collector, Traces], caplog: pytest.LogCaptureFixture
) -> None:
    _, traces = sending
    log = logging.getLogger("datastorage")
    log.warning("about an object", extra={"object_uid": "uid"})
    log.warning("about nothing")
    about, nothing = (vars(entry) for entry in caplog.records)
    assert about["trace_id"] == traces.trace_id("uid") == f"{trace_id_of('uid'):032x}"
    assert "trace_id" not in nothing
