"""Measures the export of an archive over the REST API: megabytes a second, until the last line is checked."""

import hashlib
import json
import time
from typing import Final

from benchmarks.errors import LossError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import say
from benchmarks.restclient import RestClient
from benchmarks.results import Result

# A few seconds in all: an export of a small archive is over before it runs at full speed.
_SECONDS: Final = 5.0
_MB: Final = 1_000_000


async def measure_export(
    scenario: str, client: RestClient, operator: MeasuredOperator, records: int
) -> Result:
    """Export the whole archive, again and again for some seconds.

    Raises LossError unless each export has all the records, and the hash of its last line.
    """
    say(f"    export of {records} records")
    size = count = 0
    started, cpu = time.monotonic(), operator.cpu_seconds
    while time.monotonic() - started < _SECONDS:
        size += await _checked_export(client, records)
        count += records
    megabytes, seconds = size / _MB, time.monotonic() - started
    return Result(
        scenario, "export", count, {"records": round(count / seconds, 1)},
        figures={
            "MB/s": round(megabytes / seconds, 1),
            "operator CPU ms per MB": round(1000 * (operator.cpu_seconds - cpu) / megabytes, 2),
        },
    )  # fmt: skip


async def _checked_export(client: RestClient, records: int) -> int:
    """Return the number of bytes of one export."""
    size = lines = 0
    last, digest = b"", hashlib.sha256()
    async for chunk in client.export():
        size += len(chunk)
        last += chunk
        # The last line is held back: it is no record, and has the hash of the others.
        begin = last.rfind(b"\n", 0, -1) + 1
        digest.update(last[:begin])
        lines += last.count(b"\n", 0, begin)
        last = last[begin:]
    end = json.loads(last)
    if (end["count"], end["linesHash"], lines) != (records, f"sha256:{digest.hexdigest()}", records):
        raise LossError(f"of {records} records, {lines} were exported; the last line: {end}")
    return size
