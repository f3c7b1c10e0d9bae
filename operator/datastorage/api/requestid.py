"""The names under which one request is found again: in its answer, in the log, and in the caller's traces;
and why it has failed.
"""

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from datastorage.logs import REQUEST_FIELDS, REQUEST_ID, TRACE_ID
from datastorage.tracing import RequestTrace

HEADER: Final = "X-Request-Id"
RAW_HEADER: Final = HEADER.lower().encode()
TRACE_HEADER: Final = "traceparent"
_RAW_TRACE_HEADER: Final = TRACE_HEADER.encode()
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# W3C Trace Context: version, trace, span of the caller, flags. A later version may have more after these.
_SAMPLED: Final = 1
_TRACE: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)

_current: ContextVar[str | None] = ContextVar("request_id", default=None)
# A list, because whoever answers may run in a task that was started for the request.
_failures: ContextVar[list[str]] = ContextVar("request_failures")


@dataclass(frozen=True, slots=True)
class RequestName:
    """The identifiers of a request."""

    id: str
    """The caller's own, if it is short and plain; otherwise a new one."""
    trace_id: str | None = None
    """The trace that the request belongs to, and the span of the caller in it; None if it names none."""
    span_id: str | None = None
    is_sampled: bool = False
    """Whether the caller records the trace."""

    def begin(self, trace: RequestTrace | None = None) -> None:
        """Put the identifiers into the answer, and into all log entries from now on to ``end``.

        ``trace`` is the one that this process makes. All this holds for the current task and those that it
        starts.
        """
        # Nothing resets the variables: uvicorn serves each request in a task of its own.
        _current.set(self.id)
        _failures.set([])
        fields = {REQUEST_ID: self.id}
        if self.trace_id is not None and self.span_id is not None:
            fields |= {TRACE_ID: self.trace_id, "parent_span_id": self.span_id}
        if trace is not None and trace.is_sampled:
            fields |= {TRACE_ID: trace.trace_id, "span_id": trace.span_id}
        REQUEST_FIELDS.set(fields)

    @staticmethod
    def end() -> None:
        """Name the request in no more log entries: what it has started may go on for other reasons."""
        REQUEST_FIELDS.get({}).clear()


def current_request_id() -> str | None:
    """Return the identifier of the request that is served; None outside of one."""
    return _current.get()


def note_failure(reason: str) -> None:
    """Note why the request that is served fails, for the log."""
    _failures.get([]).append(reason)


def noted_failure() -> str | None:
    """Return why the request that is served has failed, or None if nobody has noted it."""
    return next(reversed(_failures.get([])), None)


def new_request_id() -> str:
    """Return an identifier that no other request has."""
    return os.urandom(8).hex()


def name_of(headers: Iterable[tuple[bytes, bytes]]) -> RequestName:
    """Return the identifiers of a request with these headers, whose names are in lower case."""
    ids: list[bytes] = []
    traces: list[bytes] = []
    for name, value in headers:
        if name == RAW_HEADER:
            ids.append(value)
        elif name == _RAW_TRACE_HEADER:
            traces.append(value)
    known = len(ids) == 1 and _ID.fullmatch(ids[0]) is not None
    request_id = ids[0].decode("ascii") if known else new_request_id()
    trace = _TRACE.fullmatch(traces[0]) if len(traces) == 1 else None
    if trace is None or (trace["version"] == b"00" and trace["more"] is not None):
        return RequestName(request_id)
    is_sampled = bool(int(trace["flags"], 16) & _SAMPLED)
    return RequestName(request_id, trace["trace"].decode("ascii"), trace["span"].decode("ascii"), is_sampled)
