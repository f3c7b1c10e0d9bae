"""Measure what traces cost: the CPU time of all calls for a record, from its taking in to its deletion.

Processes make the calls for records in batches: without a collector, with a tenth of the traces recorded, and
with all. One more makes no calls, and counts the commits alone. Encoding and sending the spans
count, and the collector, a process of its own, does not. The rounds alternate, so that a disturbance of the
machine meets all alike.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.cpu import Disturbance
from benchmarks.records import audit_record
from datastorage import metrics
from datastorage.pipeline.clusterobject import ObjectRef, ref_of
from datastorage.pipeline.measuring import Attempts
from datastorage.records.reasons import Reason
from datastorage.records.record import Record, StoredRecord
from datastorage.records.vectorwrite import VectorWrite, WriteState
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.tracing import Step, TakenIn, Traces, open_traces
from harness.collector import Collector

_BATCH: Final = 100
_GO_ON: Final = "another round"
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
# A queue that drops nothing: otherwise the time of sending would be missing.
_QUEUE: Final = {"OTEL_BSP_MAX_QUEUE_SIZE": "200000", "OTEL_BSP_SCHEDULE_DELAY": "100"}
_TENTH: Final = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
_ROW: Final = StoredRecord(
    b"", datetime(2026, 1, 1, tzinfo=UTC), VectorWrite(WriteState.WRITTEN, Reason.WRITTEN), is_new=True
)


@dataclass(frozen=True, slots=True)
class _Item:
    record: Record
    ref: ObjectRef
    taken_in: TakenIn | None


def _objects(number: int) -> list[tuple[Record, ObjectRef]]:
    made = []
    for place in range(number):
        body = audit_record(f"record-{place}", place)
        body["metadata"] |= {
            "namespace": "bench", "uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        made.append((record_of(AUDIT_RECORD, body), ref_of(AUDIT_RECORD, body)))
    return made


async def _bare_round(objects: Sequence[tuple[Record, ObjectRef]]) -> float:
    """Return the microseconds for a record of the same work without the calls."""

    async def store(records: Sequence[Record]) -> list[StoredRecord]:
        return [_ROW] * len(records)

    started = time.process_time()
    for first in range(0, len(objects), _BATCH):
        batch = [_Item(*each, None) for each in objects[first : first + _BATCH]]
        await Attempts(store, [item.record for item in batch])()
        await asyncio.sleep(0)
    return (time.process_time() - started) / len(objects) * 1e6


async def _round(traces: Traces, objects: Sequence[tuple[Record, ObjectRef]]) -> float:
    """Return the microseconds of CPU time for a record."""

    async def store(records: Sequence[Record]) -> list[StoredRecord]:
        traces.embedding_begins()
        return [_ROW] * len(records)

    started = time.process_time()
    for first in range(0, len(objects), _BATCH):
        batch = [_Item(*each, traces.taken_in()) for each in objects[first : first + _BATCH]]
        await Attempts(store, [item.record for item in batch], traces.commit(batch))()
        for item in batch:
            for step in Step:
                with traces.step(step, item.ref.uid, 1, item.ref.as_log_fields):
                    pass
        await asyncio.sleep(0)
    while _waiting():  # noqa: ASYNC110  # a look costs nothing beside what is measured
        await asyncio.sleep(0.05)
    return (time.process_time() - started) / len(objects) * 1e6


def _waiting() -> float:
    """Return the number of spans that are still to be sent."""

    def count(outcome: metrics.SpanOutcome) -> float:
        return float(metrics.SPANS.labels(outcome)._value.get())  # noqa: SLF001  # the library shows it nowhere else

    outcomes = metrics.SpanOutcome
    return count(outcomes.MADE) - count(outcomes.SENT) - count(outcomes.FAILED)


def _work(pipe: Connection, records: int, variables: Mapping[str, str] | None) -> None:
    """Do rounds on request; without ``variables`` bare ones."""
    os.environ.update(variables or {})

    async def work() -> None:
        async with open_traces() as traces:
            while pipe.recv():
                objects = _objects(records)
                bare = variables is None
                pipe.send(await (_bare_round(objects) if bare else _round(traces, objects)))

    asyncio.run(work())


def _collect(pipe: Connection) -> None:
    with Collector() as collector:
        pipe.send(collector.url)
        pipe.recv()


def measure(rounds: int, records: int) -> tuple[dict[str, list[float]], float]:
    """Return the microseconds for a record in each round, by what is recorded, and the share of others."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    collector = context.Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    named = {_ENDPOINT: pipe.recv(), **_QUEUE}
    modes: dict[str, Mapping[str, str] | None] = {
        "no calls": None,
        "no collector": {},
        "a tenth of the traces": {**named, **_TENTH},
        "all traces": named,
    }
    workers = {}
    for name, variables in modes.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, records, variables), daemon=True)
        process.start()
        workers[name] = (ours, process)
    disturbance = Disturbance([collector.pid or 0, *(process.pid or 0 for _, process in workers.values())])
    found: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(rounds + 1):
        for name, (ours, _) in workers.items():
            ours.send(_GO_ON)
            if number:
                found[name].append(ours.recv())
            else:
                ours.recv()  # the first round loads modules
    others = disturbance.share()
    for ours, process in workers.values():
        ours.send(None)
        process.join()
    pipe.send(None)
    return found, others


def main() -> int:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each process (default 7)")
    parser.add_argument("--records", type=int, default=2_000, help="records of a round (default 2,000)")
    arguments = parser.parse_args()
    found, others = measure(arguments.rounds, arguments.records)
    table = Table("recorded", "rounds", "CPU µs/record, median", "least", "most", box=None)
    for name, values in found.items():
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(name, str(len(values)), *(f"{number:.1f}" for number in numbers))
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    print(f"Others used {others * 100:.0f} % of the machine.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
