"""Traces of a real operator: one for each record, sent to a real receiver of OTLP, which may be broken."""

import asyncio
import hashlib
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.bulk import BulkClient
from harness.collector import Collector, Sent
from harness.embeddings import OpenAIService
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import DEADLINE_SECONDS, until
from harness.ports import free_port

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN: Final = "00f067aa0ba902b7"
TRACEPARENT: Final = f"00-{TRACE}-{CALLER_SPAN}-01"
SECRET: Final = "collector-secret"  # of nobody
OPEN: Final[Mapping[str, Any]] = {"API_AUTHENTICATION": "none", "LISTEN_ADDRESS": "127.0.0.1"}
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_SERVER, _CLIENT, _CONSUMER = 2, 3, 5


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


def _variables(url: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "the-archive",
    }


def _trace_of(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


async def _uid(client: BulkClient, workbench: Workbench, name: str) -> str:
    body = await client.get(AUDIT_RECORD, workbench.namespace, name)
    assert body is not None
    return str(body["metadata"]["uid"])


async def _has(collector: Collector, trace_id: str, *names: str) -> None:
    """Wait until a trace has spans of these names."""

    async def there() -> bool:
        return {span.name for span in collector.trace(trace_id)} >= set(names)

    await until(there, what=f"the trace has {names}")


def _only(collector: Collector, trace_id: str, name: str) -> Sent:
    [found] = [span for span in collector.trace(trace_id) if span.name == name]
    return found


def _store(
    operator: OperatorProcess, namespace: str, headers: Mapping[str, str], *, whole: bool = False
) -> dict[str, Any]:
    """Store a record; ``whole``: as a group of one, in a transaction of its own."""
    body = audit_record("over-http", type="Execution")
    body["metadata"]["namespace"] = namespace
    path, sent = ("/store/execution?atomic=true", [body]) if whole else ("/store/execution", body)
    answer = ApiClient(operator.api_url).post(path, sent, headers)
    assert answer.status == (207 if whole else 201), answer.content
    receipt: dict[str, Any] = answer.json
    return receipt


def _exemplars(operator: OperatorProcess) -> str:
    request = urllib.request.Request(operator.metrics_url, headers={"Accept": OPENMETRICS})
    with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        return str(answer.read().decode())


async def test_an_object_has_one_trace_from_the_watch_to_its_deletion(
    workbench: Workbench, client: BulkClient, collector: Collector, embedder: OpenAIService
) -> None:
    """Also where its vector comes late, and from another process."""
    embedder.is_away = True
    operator = workbench.start_operator(**embedder.settings(), environment=_variables(collector.url))
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("one"))
    uid = await _uid(client, workbench, "one")
    own = _trace_of(uid)
    await _has(collector, own, "store AuditRecord", "wait", "commit", "write vector", "write status")

    await asyncio.to_thread(operator.terminate)
    embedder.is_away = False
    operator.settings["DATASTORAGE_TTL_SECONDS_AFTER_STORED"] = "1"
    await asyncio.to_thread(operator.start)
    await _has(collector, own, "delete object")

    spans = collector.trace(own)
    first = _only(collector, own, "store AuditRecord")
    assert (first.parent_id, first.kind) == ("", _CONSUMER)
    assert {span.parent_id for span in spans if span is not first} == {first.span_id}
    assert [span.attributes["datastorage.vector.state"] for span in spans if span.name == "write vector"] == [
        "Pending", "Written",
    ]  # fmt: skip
    assert sum(span.name == "write status" for span in spans) == 2
    assert not any(span.failed for span in spans)
    assert first.attributes == {
        "datastorage.record.kind": "AuditRecord", "datastorage.record.name": "one",
        "datastorage.record.uid": uid, "datastorage.record.generation": 1,
        "datastorage.record.correlation_id": "rr-0001", "datastorage.record.via": "cluster",
        "k8s.namespace.name": workbench.namespace,
    }  # fmt: skip
    commit = _only(collector, own, "commit")
    assert commit.attributes["db.system.name"] == "postgresql"
    [batch] = [span for span in collector.spans if (span.trace_id, span.span_id) == commit.links[0]]
    assert (batch.name, batch.kind, (own, first.span_id) in batch.links) == ("commit batch", _CLIENT, True)
    deletion = _only(collector, own, "delete object")
    assert deletion.attributes["k8s.namespace.name"] == workbench.namespace
    assert deletion.started > commit.ended
    assert first.resource["service.name"] == "the-archive"

    assert all(headers["authorization"] == f"Bearer {SECRET}" for headers in collector.headers)
    password = urlsplit(workbench.database_url).password
    log = operator.log_path.read_bytes()
    for secret in filter(None, (SECRET, password, "postgresql://")):
        assert not any(secret.encode() in sent for sent in collector.raw)
        assert secret.encode() not in log


async def test_a_record_over_http_is_in_the_trace_of_its_caller(
    workbench: Workbench, collector: Collector
) -> None:
    operator = workbench.start_operator(**OPEN, environment=_variables(collector.url))
    receipt = await asyncio.to_thread(
        _store,
        operator,
        workbench.namespace,
        {"traceparent": TRACEPARENT, "Authorization": "Bearer of-caller"},
    )
    server = "POST /api/v1/store/{type}"
    await _has(collector, TRACE, server, "store AuditRecord", "wait", "commit", "write vector")
    request, stored = _only(collector, TRACE, server), _only(collector, TRACE, "store AuditRecord")
    assert (request.parent_id, request.kind) == (CALLER_SPAN, _SERVER)
    assert request.attributes == {
        "http.request.method": "POST", "http.route": "/api/v1/store/{type}", "http.response.status_code": 201,
        "url.path": "/api/v1/store/execution", "url.scheme": "http",
    }  # fmt: skip
    assert stored.parent_id == request.span_id
    assert stored.attributes["datastorage.record.uid"] == receipt["uid"]
    for name in ("wait", "commit", "write vector"):
        assert _only(collector, TRACE, name).parent_id == stored.span_id
    assert not any(b"of-caller" in sent for sent in collector.raw)

    page = await asyncio.to_thread(_exemplars, operator)
    for name in ("datastorage_created_to_stored_seconds", "http_server_request_duration_seconds"):
        lines = [line for line in page.splitlines() if line.startswith(f"{name}_bucket") and TRACE in line]
        assert lines, name
    assert " # {" not in operator.metrics()  # the plain form has none

    group = f"00-{'b' * 32}-{CALLER_SPAN}-01"
    await asyncio.to_thread(_store, operator, workbench.namespace, {"traceparent": group}, whole=True)
    await _has(collector, "b" * 32, server, "store AuditRecord", "wait", "commit", "write vector")

    unsampled = f"00-{'a' * 32}-{CALLER_SPAN}-00"
    await asyncio.to_thread(_store, operator, workbench.namespace, {"traceparent": unsampled})
    await asyncio.to_thread(_store, operator, workbench.namespace, {})
    await until(lambda: _has_servers(collector, 3), what="the last request is sent")
    assert collector.trace("a" * 32) == []
    assert {span.name for span in collector.spans if span.kind == _SERVER} == {server}, "no probe"


async def _has_servers(collector: Collector, number: int) -> bool:
    return sum(span.kind == _SERVER for span in collector.spans) >= number


@pytest.mark.parametrize("fault", ["hangs", "is busy", "refuses", "is away"])
async def test_a_broken_collector_delays_neither_records_nor_the_stop(
    workbench: Workbench, client: BulkClient, collector: Collector, fault: str
) -> None:
    """What it refuses is not sent again; what it is too busy for is, for longer than a stop may take."""
    collector.hangs, collector.status = fault == "hangs", 401 if fault == "refuses" else 503
    url = f"http://127.0.0.1:{free_port()}" if fault == "is away" else collector.url
    # Longer than a test may take: whoever waits for the collector is noticed.
    patient = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
        "OTEL_BSP_MAX_QUEUE_SIZE": "8",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
    }
    operator = workbench.start_operator(environment=_variables(url) | patient, TTL_SECONDS_AFTER_STORED=1)
    for number in range(30):
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"record-{number}"))

    async def cleared() -> bool:
        return not await client.list(AUDIT_RECORD, workbench.namespace)

    await until(cleared, what="the records are stored and cleared")
    assert operator.metric('datastorage_write_total{status="success",table="audit_records"}') == 30
    assert operator.metric('datastorage_trace_spans_total{outcome="made"}') > 100
    if fault == "refuses":
        await until(lambda: _have_failed(operator), what="failed spans are counted")
    assert operator.metric('datastorage_trace_spans_total{outcome="sent"}') == 0
    assert await asyncio.to_thread(operator.terminate) == 0
    log = operator.log_path.read_text()
    assert "The stop took longer" not in log
    assert ("The last spans are dropped" in log) is (fault != "refuses")
    assert SECRET not in log


async def _have_failed(operator: OperatorProcess) -> bool:
    return operator.metric('datastorage_trace_spans_total{outcome="failed"}') > 0
