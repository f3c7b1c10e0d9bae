"""Measures the REST API's reads of a large archive (k): a million records, written as by the service."""

import asyncio
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count as counted
from itertools import islice
from typing import Any, Final

import asyncpg

from benchmarks.archives import Archive
from benchmarks.bench import Bench
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import Progress, say
from benchmarks.records import audit_record
from benchmarks.restclient import PACE, RestClient, at_once, paced, rest_client
from benchmarks.restexport import measure_export
from benchmarks.results import Result
from benchmarks.texts import questions, sentences
from datastorage.embedding.wordllama import MODEL, WordLlamaProvider
from datastorage.records.record import Record
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.storage.connection.database import Database
from datastorage.storage.schema import ARCHIVE
from datastorage.storage.vectors import VectorTables
from datastorage.storage.write import Archive as RowArchive
from harness.objects import served

_BATCH: Final = 1_000
# Records recur: a message belongs to ten of them, in two phases.
_RECORDS_A_TEXT: Final = 10
_NAMESPACES: Final = 100
_DAYS: Final = 180
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_PACED_SECONDS: Final = 5
_LISTS_A_SECOND: Final = 20
# A search of a million records takes about 0.1 s of CPU. More of them in a second would wait for each other.
_SEARCHES_A_SECOND: Final = 5
_INDEX_MEMORY_MIB: Final = 512
_SAMPLE: Final = "SELECT uid FROM datastorage.audit_records TABLESAMPLE SYSTEM (5) LIMIT 5000"


@dataclass(frozen=True, slots=True)
class _Reads:
    """The requests, each by its number."""

    client: RestClient
    uids: Sequence[str]
    questions: Sequence[str]

    async def get(self, number: int) -> None:
        await self.client.get(f"/query/remediation/{self.uids[number * 7 % len(self.uids)]}")

    async def list(self, number: int) -> None:
        phase = ("Completed", "Failed")[number % 2]
        where = {} if number % 4 < 2 else {"namespace": f"team-{number % _NAMESPACES}"}
        await self.client.get("/query/records", pageSize="50", phase=phase, **where)

    async def search(self, number: int) -> None:
        where = {} if number % 4 < 2 else {"namespace": f"team-{number % _NAMESPACES}"}
        question = self.questions[number % len(self.questions)]
        await self.client.get("/query/semantic", q=question, **where)


async def measure_large_archive(bench: Bench, records: int, requests: int) -> list[Result]:
    """Fill an archive with ``records``, and read it: at most ``requests`` at a time of each kind."""
    archive = await bench.archives.archive()
    await _fill(archive, records)
    uids = await _sample(archive)
    # Other scenarios may have left objects in the cluster.
    async with bench.operator(archive, NAMESPACES=await bench.namespace("large")) as operator:
        await operator.until_ready()
        async with rest_client(bench, operator) as client:
            results = await _measure(operator, _Reads(client, uids, list(questions(100, seed=2))), requests)
            results.append(await measure_export("k5", client, operator, records))
            results[0].figures["peak RSS MiB"] = round(operator.peak_rss_mib, 1)
            return results


async def _measure(operator: MeasuredOperator, reads: _Reads, requests: int) -> list[Result]:
    for number in range(20):  # the first of each kind open connections and load the model
        await asyncio.gather(reads.get(number), reads.list(number), reads.search(number))
    say(f"    {requests} records read")
    rate, cpu_ms = await at_once(operator, requests, reads.get)
    few = min(requests, _PACED_SECONDS * _LISTS_A_SECOND)
    return [
        Result("k1", "get, large archive", requests, {"requests": rate}, figures={"operator CPU ms": cpu_ms}),
        await paced("k2", f"get, {PACE} requests/s", min(requests, _PACED_SECONDS * PACE), reads.get),
        await paced("k3", f"list of 50, {_LISTS_A_SECOND} requests/s", few, reads.list, pace=_LISTS_A_SECOND),
        await paced(
            "k4", f"semantic, {_SEARCHES_A_SECOND} requests/s", few, reads.search, pace=_SEARCHES_A_SECOND
        ),
    ]


async def _sample(archive: Archive) -> list[str]:
    connection = await asyncpg.connect(archive.owner_url)
    try:
        await connection.execute("VACUUM ANALYZE")
        return [str(row["uid"]) for row in await connection.fetch(_SAMPLE)]
    finally:
        await connection.close()


async def _fill(archive: Archive, count: int) -> None:
    say(f"    filling an archive with {count:,} records")
    database, provider = Database(archive.service_url, pool_size=2, chain=ARCHIVE), WordLlamaProvider()
    rows, tables, progress = RowArchive(database), VectorTables(database, MODEL), Progress("stored", count)
    written: set[bytes] = set()
    try:
        records = _records(count)
        for number in counted(1):
            batch = list(islice(records, _BATCH))
            if not batch:
                break
            await rows.write(batch)
            texts = [record.text for record in batch if record.text is not None]
            new = {text.hash: text.text for text in texts if text.hash not in written}
            if new:
                vectors = await provider.embed(list(new.values()))
                await tables.insert(dict(zip(new, vectors, strict=True)))
                written.update(new)
            progress.update(number * _BATCH)
        while await tables.index(memory_mib=_INDEX_MEMORY_MIB, grace_seconds=0):
            progress.update(count)
    finally:
        await database.close()
        await provider.close()


def _records(count: int) -> Iterator[Record]:
    """Yield records of about 1 KB, spread over half a year, of many namespaces and both phases."""
    chance = random.Random(1)
    texts = list(sentences(max(1, count // _RECORDS_A_TEXT), seed=1))
    for number in range(count):
        spec: dict[str, Any] = audit_record("-", number, texts=1)["spec"]
        spec |= {"message": texts[number % len(texts)], "phase": "Failed" if number % 7 == 0 else "Completed"}
        created = _START + timedelta(days=_DAYS * number / count)
        body = served(
            AUDIT_RECORD, spec, name=f"record-{number}", namespace=f"team-{number % _NAMESPACES}",
            uid=str(uuid.UUID(int=chance.getrandbits(128))), creationTimestamp=created.isoformat(),
        )  # fmt: skip
        yield record_of(AUDIT_RECORD, body)
