"""A collector of OpenTelemetry that keeps what programs send over OTLP/HTTP, and can be made to misbehave."""

import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

_PATH: Final = "/v1/traces"


@dataclass(frozen=True)
class Sent:
    """A span as it was sent. Ids are hexadecimal digits, empty where there is none; times are nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    attributes: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    failed: bool
    started: int
    ended: int
    resource: Mapping[str, Any]


class Collector:
    """Listens on a port of this machine, from its own threads, in a ``with`` block."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "http" if tls is None else "https"
        self.status = 200
        """Its answer to each request."""
        self.hangs = False
        """Whether it takes requests and never answers them."""
        self.refused = 0
        """How many spans it says it refuses of each request; it takes them all the same."""
        self.is_endless = False
        """Whether its answers go on and on, after a good beginning."""
        self.endless_bytes = 0
        """How many bytes of endless answers were taken from it."""
        self.requests = 0
        """How many requests have come, also those that get no answer."""
        self.headers: list[Mapping[str, str]] = []
        self.raw: list[bytes] = []
        """The bodies of the requests that it has answered with 200."""
        self._spans: list[Sent] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Sent]:
        """All spans that were taken so far, in the order of their beginning."""
        with self._lock:
            return sorted(self._spans, key=lambda span: span.started)

    def trace(self, trace_id: str) -> list[Sent]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self._lock:
            self.requests += 1
            self.headers.append(dict(request.headers))
        if self.hangs:
            self._ended.wait()
            return
        if self.status == 200:
            assert request.path == _PATH, request.path
            taken = list(_spans_of(ExportTraceServiceRequest.FromString(body)))
            with self._lock:
                self.raw.append(body)
                self._spans += taken
        message = ExportTraceServiceResponse()
        message.partial_success.rejected_spans = self.refused
        answer = message.SerializeToString()
        request.send_response(self.status)
        if self.is_endless:
            request.end_headers()
            with suppress(OSError):  # the other side has had enough
                while not self._ended.is_set():
                    request.wfile.write(bytes(64 * 1024))
                    self.endless_bytes += 64 * 1024
            return
        request.send_header("Content-Type", "application/x-protobuf")
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


def _spans_of(request: ExportTraceServiceRequest) -> Sequence[Sent]:
    return [
        Sent(
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            kind=span.kind,
            attributes=_values(span.attributes),
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
            started=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
            resource=_values(of_resource.resource.attributes),
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in attributes}
