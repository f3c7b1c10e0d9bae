"""``make bench-search``: how well searches by meaning, by words and by both find the right records.

Every record of the labelled set is stored as the operator stores it (text, embedding, PostgreSQL), and every
question is asked as ``datastorage search`` asks it. nDCG@10 and recall@10 are means over the questions.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from benchmarks.search.dataset import LabelledRecord, Question, load_questions, load_records
from benchmarks.search.measures import ndcg_at, recall_at
from datastorage.assembly.searching import queries_of
from datastorage.assembly.shard import build_writer
from datastorage.assembly.store import Store, open_store
from datastorage.query.filters import SearchMode
from datastorage.records.vectorwrite import WriteState
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings, EmbeddingSettings
from harness.minilm import DIMENSION, NAME
from harness.modelserver import EmbeddingsServer
from harness.objects import served
from harness.postgres import PostgresServer, TestDatabases

_AT: Final = 10
_KINDS: Final = {kind.kind: kind for kind in (AUDIT_RECORD, ACTION_TRACE)}
_FIRST_CREATED: Final = datetime(2026, 3, 1, tzinfo=UTC)
_KEY: Final = "a-key-for-the-benchmark"


@dataclass(frozen=True)
class Quality:
    """One way of searching with one model: means over all questions."""

    model: str
    mode: str
    ndcg: float
    recall: float
    median_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--model", choices=["wordllama", "minilm"], action="append", help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="show the N worst questions of hybrid"
    )
    options = parser.parse_args()
    try:
        qualities = asyncio.run(_measure(options.model or ["wordllama", "minilm"], options.worst))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(qualities)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in qualities], indent=2) + "\n")
    return 0 if _hybrid_is_no_worse(qualities) else 1


async def _measure(models: Sequence[str], worst: int) -> list[Quality]:
    records = load_records()
    questions = load_questions(records)
    say(f"{len(records)} records, {len(questions)} questions")
    with PostgresServer() as server:
        databases = TestDatabases(server.owner_url)
        await asyncio.to_thread(databases.prepare)
        qualities: list[Quality] = []
        for model in models:
            database = await databases.clone()
            async with _store(model, database.service_url) as store:
                say(f"storing the records with {model}")
                ids = await _fill(store, records)
                qualities += [await _ask(store, model, mode, questions, ids, worst) for mode in SearchMode]
        return qualities


@asynccontextmanager
async def _store(model: str, database_url: str) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        database, embedding = DatabaseSettings(url=SecretStr(database_url)), EmbeddingSettings()
        if model == "minilm":
            server = await stack.enter_async_context(EmbeddingsServer(key=_KEY))
            embedding = EmbeddingSettings(
                provider="openai",
                url=server.url,
                model=NAME,
                dimensions=DIMENSION,
                api_key=SecretStr(_KEY),
                timeout_seconds=300.0,
                batch_size=32,
            )
        settings = Settings(database=database, embedding=embedding)
        yield await stack.enter_async_context(open_store(settings, writable=True))


async def _fill(store: Store, records: Sequence[LabelledRecord]) -> dict[str, str]:
    """Store the records; return the labels' ids by uid. Raises BenchmarkError when one has no vector."""
    vectors = store.vectors
    if vectors is None:
        raise BenchmarkError("the store keeps no vectors")
    await vectors.embedder.probe()
    writer = build_writer(store, on_pending=lambda: None)
    archived = [record_of(_KINDS[each.kind], _body(each, number)) for number, each in enumerate(records)]
    # The vectors are made beforehand: a real model takes longer than the write path waits for an embedder.
    await vectors.embedder.embed(
        {record.text.hash: record.text.text for record in archived if record.text is not None},
        timeout_seconds=None,
    )
    stored = await writer.store(archived)
    without = [row.vector.message for row in stored if row.vector.state is not WriteState.WRITTEN]
    if without:
        raise BenchmarkError(f"{len(without)} records have no vector: {without[0]}")
    return {record.key.uid: each.id for record, each in zip(archived, records, strict=True)}


def _body(record: LabelledRecord, number: int) -> dict[str, Any]:
    created = _FIRST_CREATED + timedelta(minutes=number)
    return served(
        _KINDS[record.kind], record.spec,
        name=record.name, namespace=record.namespace, creationTimestamp=created.isoformat(),
    )  # fmt: skip


async def _ask(
    store: Store, model: str, mode: SearchMode, questions: Sequence[Question], ids: dict[str, str], worst: int
) -> Quality:
    archive, loop = queries_of(store), asyncio.get_running_loop()
    ndcg: dict[str, float] = {}
    recall, seconds = [], []
    for question in questions:
        started = loop.time()
        result = await archive.search(question.text, mode=mode, limit=_AT)
        seconds.append(loop.time() - started)
        if result.degraded:
            raise BenchmarkError(f"the search was degraded: {result.degraded}")
        ranking = [ids[hit.record.uid] for hit in result.hits]
        ndcg[question.text] = ndcg_at(_AT, ranking, question.relevant)
        recall.append(recall_at(_AT, ranking, question.relevant))
    if mode is SearchMode.HYBRID:
        for text in sorted(ndcg, key=lambda each: ndcg[each])[:worst]:
            print(f"  {model}: {ndcg[text]:.2f} {text}")
    return Quality(
        model, mode.value, round(statistics.mean(ndcg.values()), 3), round(statistics.mean(recall), 3),
        round(1000 * statistics.median(seconds), 1),
    )  # fmt: skip


def _print(qualities: Sequence[Quality]) -> None:
    table = Table("model", "mode", f"nDCG@{_AT}", f"recall@{_AT}", "median ms", box=None)
    for each in qualities:
        table.add_row(
            each.model, each.mode, f"{each.ndcg:.3f}", f"{each.recall:.3f}", f"{each.median_ms:.1f}"
        )
    Console(width=100 if not sys.stdout.isatty() else None).print(table)


def _hybrid_is_no_worse(qualities: Sequence[Quality]) -> bool:
    """Return whether hybrid is no worse than the better of the two, for each model; print where it is."""
    fine = True
    for model in dict.fromkeys(each.model for each in qualities):
        by_mode = {each.mode: each for each in qualities if each.model == model}
        best = max(by_mode["vector"].ndcg, by_mode["text"].ndcg)
        if by_mode["hybrid"].ndcg < best:
            print(f"{model}: hybrid is worse than the better of the two: {by_mode['hybrid'].ndcg} < {best}")
            fine = False
    return fine


if __name__ == "__main__":
    sys.exit(main())
