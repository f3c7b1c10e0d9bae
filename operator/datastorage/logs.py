"""Configures structured logs: one JSON object per line, or text for a terminal."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from pythonjsonlogger.json import JsonFormatter

_STANDARD: Final = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
REQUEST_FIELDS: Final[ContextVar[dict[str, str]]] = ContextVar("request_fields")
"""The fields that name the request that a task serves; they are added to all its log entries."""
OBJECT_UID: Final = "object_uid"
CORRELATION_ID: Final = "correlation_id"
TRACE_ID: Final = "trace_id"
REQUEST_ID: Final = "request_id"
"""The fields that name an object, its incident, its trace, and a request."""
# Loggers that report every object or request at INFO.
_QUIET: Final = ("kopf", "asyncio", "alembic")
# uvicorn warns of each malformed request: any port scanner would fill the log.
_SILENT: Final = ("uvicorn",)


def object_fields(
    *, kind: str, namespace: str, name: str, uid: str, correlation_id: str | None
) -> dict[str, str]:
    """Return the fields that name an object of the cluster in a log entry.

    ``correlation_id`` is empty or None if it is not known.
    """
    fields = {
        "object_kind": kind,
        "object_namespace": namespace,
        "object_name": name,
        OBJECT_UID: uid,
    }
    return fields | {CORRELATION_ID: correlation_id} if correlation_id else fields


def name_in_request(fields: Mapping[str, str]) -> None:
    """Add fields to all log entries about the request that the current task serves, if it serves one."""
    REQUEST_FIELDS.get({}).update(fields)


def _add_request(record: logging.LogRecord) -> bool:
    """Name the request in an entry, if it is about one. What the entry itself says is not changed."""
    for name, value in REQUEST_FIELDS.get({}).items():
        if name not in vars(record):
            setattr(record, name, value)
    return True


@contextmanager
def traces_named(trace_id_of: Callable[[str], str | None]) -> Iterator[None]:
    """Meanwhile, name the trace in each entry about an object whose trace is recorded.

    ``trace_id_of`` returns the trace of a uid, or None if it is not recorded.
    """

    def add_trace(record: logging.LogRecord) -> bool:
        known = vars(record)
        uid = known.get(OBJECT_UID)
        # An entry about a request names the trace of the request, or none.
        if uid and not known.keys() & {TRACE_ID, REQUEST_ID} and (trace_id := trace_id_of(uid)) is not None:
            setattr(record, TRACE_ID, trace_id)
        return True

    handlers = list(logging.root.handlers)
    for handler in handlers:
        handler.addFilter(add_trace)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(add_trace)


class _TextFormatter(logging.Formatter):
    """Appends the extra fields of a log entry to its message, as key=value.

    Anybody may have written a name or a correlation ID. What in them could begin a new line, or steer a
    terminal, is escaped.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        extra = vars(record).keys() - _STANDARD
        return " ".join(
            [
                super().formatMessage(record),
                *(f"{key}={_escaped(vars(record)[key])}" for key in sorted(extra)),
            ]
        )


def _escaped(value: object) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )


def configure_command_logging() -> None:
    """Send warnings to standard error in lines that begin with the program's name.

    Changes nothing if logging is configured already.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter("datastorage: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def configure_logging(level: str, form: str) -> None:
    """Send logs of ``level`` and above to standard error, as ``json`` or ``text``."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(_add_request)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for names, lowest in ((_QUIET, logging.WARNING), (_SILENT, logging.ERROR)):
        for name in names:
            logging.getLogger(name).setLevel(max(lowest, logging.root.level))
