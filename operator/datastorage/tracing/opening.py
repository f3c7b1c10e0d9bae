"""Decides from the environment whether traces are made, and opens what makes them.

The variables are OpenTelemetry's own, which operators of clusters set for all programs alike; the SDK reads
all others than these by itself.
"""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from datastorage.logs import traces_named
from datastorage.tracing.interface import NO_TRACES, Traces

_log = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_DISABLED: Final = "OTEL_SDK_DISABLED"
_PROTOCOL: Final = "http/protobuf"


@asynccontextmanager
async def open_traces(environment: Mapping[str, str] | None = None) -> AsyncIterator[Traces]:
    """Open the traces; close them in the end, which takes two seconds at most.

    ``environment`` are the variables, by default those of the process. Traces that can't be made as they are
    set up are none: that is logged, and no reason to store no records.
    """
    variables = os.environ if environment is None else environment
    if not is_wanted(variables):
        yield NO_TRACES
        return
    problem = _problem(variables)
    if problem is not None:
        _log.error("Starting without traces: %s", problem)
        yield NO_TRACES
        return
    async with AsyncExitStack() as stack:
        yield _opened(stack)


def _opened(stack: AsyncExitStack) -> Traces:
    """Return traces that end with the stack, or none if the SDK can't use a variable."""
    from datastorage.tracing import exporting, sdk  # noqa: PLC0415  # they load OpenTelemetry's SDK

    collector = exporting.Collector()
    try:
        processor = exporting.build_processor(collector)
        stack.push_async_callback(exporting.close, processor)
        traces = sdk.SdkTraces(processor, exporting.build_resource(), collector)
        sampler = traces.sampler
    except Exception as error:  # noqa: BLE001  # whatever the SDK makes of a variable
        # Without the text, which may quote a header.
        _log.error("Starting without traces: the OTEL_ variables can't be used (%s)", type(error).__name__)
        return NO_TRACES
    _log.info("Traces are made", extra={"sampler": sampler})
    stack.enter_context(traces_named(traces.trace_id))
    return traces


def is_wanted(variables: Mapping[str, str]) -> bool:
    """Return whether the variables name a collector, and do not switch traces off."""
    return (
        any(variables.get(name) for name in _ENDPOINTS)
        and variables.get(_DISABLED, "").strip().lower() != "true"
        and variables.get(_EXPORTER, "").strip().lower() != "none"
    )


def _problem(variables: Mapping[str, str]) -> str | None:
    """Return why traces can't be made, or None."""
    exporter = variables.get(_EXPORTER, "").strip()
    if exporter not in {"", "otlp"}:
        return f"{_EXPORTER} must be otlp or none"
    protocol = next((found for name in _PROTOCOLS if (found := variables.get(name, "").strip())), _PROTOCOL)
    if protocol != _PROTOCOL:
        return f"the protocol must be {_PROTOCOL}, on the port 4318 of most collectors"
    return None
