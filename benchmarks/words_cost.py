"""What it costs to search all of a record by words, and not its main texts alone.

``python -m benchmarks.words_cost`` prints the CPU time for each of the usual records of the benchmarks: in
Python, for the whole record, and in PostgreSQL, for the column of the words with its index.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psutil

from benchmarks.records import audit_record
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.resources.reading.registry import reading_of
from harness.objects import served
from harness.postgres import PostgresServer, connect

_RECORDS: Final = 2_000
_ROUNDS: Final = 10
_BATCH: Final = 500
_READING: Final = reading_of(AUDIT_RECORD)
_MAIN: Final = ("action", "message", "errorMessage")
_MAIN_OF_OBJECT: Final = ("kind", "namespace", "name")
_TABLE: Final = """
    DROP TABLE IF EXISTS words;
    CREATE TABLE words (search tsvector);
    CREATE INDEX words_index ON words USING gin (search) WITH (gin_pending_list_limit = 64)
"""
_INSERT: Final = "INSERT INTO words SELECT to_tsvector('english', t) FROM unnest($1::text[]) AS given (t)"


def main() -> int:
    specs = [audit_record(f"r{n}", n)["spec"] for n in range(_RECORDS)]
    mains = [_main_texts(spec) for spec in specs]
    everything, alone = ([_READING.words(spec) for spec in of] for of in (specs, mains))
    bodies = [served(AUDIT_RECORD, spec) for spec in specs]
    whole = _microseconds(lambda: [record_of(AUDIT_RECORD, body) for body in bodies])
    words = _microseconds(lambda: [_READING.words(spec) for spec in specs])
    before = _microseconds(lambda: [_READING.words(spec) for spec in mains])
    print(f"Python: {whole:.0f} us for a record; {words:.0f} for all of its words, {before:.0f} for the main")
    for name, texts in (("main texts", alone), ("all texts", everything)):
        microseconds, size = asyncio.run(_of_postgres(texts))
        characters = sum(map(len, texts)) / len(texts)
        print(
            f"PostgreSQL, {name}: {microseconds:.0f} us for a row of {characters:.0f} characters, "
            f"{size:.0f} bytes of the index"
        )
    return 0


def _main_texts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with nothing but what was searched before."""
    kept: dict[str, Any] = {name: spec[name] for name in _MAIN if name in spec}
    kept["resourceRef"] = {name: spec["resourceRef"][name] for name in _MAIN_OF_OBJECT}
    return kept


def _microseconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of all rounds, for one record."""
    least = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
    return least / _RECORDS * 1e6


async def _of_postgres(texts: Sequence[str]) -> tuple[float, float]:
    """Return the CPU time in microseconds for a row, and the bytes of the index for it."""
    with PostgresServer() as server:
        connection = await connect(server.owner_url)
        await connection.execute(_TABLE)
        backend = psutil.Process(connection.get_server_pid())
        before = sum(backend.cpu_times()[:2])
        for _ in range(_ROUNDS):
            for start in range(0, len(texts), _BATCH):
                await connection.execute(_INSERT, texts[start : start + _BATCH])
        taken = sum(backend.cpu_times()[:2]) - before
        size = await connection.fetchval("SELECT pg_relation_size('words_index')")
        await connection.close()
    rows = _ROUNDS * len(texts)
    return taken / rows * 1e6, size / rows


if __name__ == "__main__":
    sys.exit(main())
