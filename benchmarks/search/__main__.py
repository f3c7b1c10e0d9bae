"""``make bench-search``: how well searches by meaning, by words and by both find the right records.

Every record of the labelled set is stored as the operator stores it (text, embedding, PostgreSQL), and every
question is asked as ``datastorage search`` asks it, and for hybrid also with ``--flat``, which shows what it
costs that a page has few records of each incident. nDCG@10 and recall@10 are means over the questions of
each part of the set, and of each class. The exit code is 1 where hybrid is worse than meaning or words alone,
beyond what the choice of questions explains.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from benchmarks.search.dataset import (
    LabelledRecord,
    Part,
    Question,
    QuestionClass,
    load_questions,
    load_records,
)
from benchmarks.search.measures import graded_recall_at, ndcg_at
from benchmarks.search.quality import ALL, Asked, Quality, qualities_of, where_hybrid_is_worse
from datastorage.assembly.searching import queries_of
from datastorage.assembly.shard import build_writer
from datastorage.assembly.store import Store, open_store
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import SearchMode
from datastorage.query.questions import ArchiveQueries
from datastorage.records.vectorwrite import WriteState
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings, EmbeddingSettings, ThesaurusSettings
from datastorage.thesaurus.loading import load_groups
from harness.objects import served
from harness.onnxmodel import minilm_folder
from harness.postgres import PostgresServer, TestDatabases

_AT: Final = 10
_BATCH: Final = 100
_KINDS: Final = {kind.kind: kind for kind in (AUDIT_RECORD, ACTION_TRACE)}
_FIRST_CREATED: Final = datetime(2026, 3, 1, tzinfo=UTC)
_WAYS: Final = (*((mode, False) for mode in SearchMode), (SearchMode.HYBRID, True))
"""Each mode, and whether the answer is a plain list."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--model", choices=["wordllama", "minilm"], action="append", help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="show the N worst questions of hybrid"
    )
    parser.add_argument("--no-thesaurus", action="store_true", help="search without synonyms")
    options = parser.parse_args()
    thesaurus = ThesaurusSettings(enabled=not options.no_thesaurus)
    try:
        asked = asyncio.run(_measure(options.model or ["wordllama", "minilm"], thesaurus))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    qualities = qualities_of(asked)
    _print(qualities)
    _print_worst(asked, options.worst)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in qualities], indent=2) + "\n")
    worse = list(where_hybrid_is_worse(asked))
    for line in worse:
        print(line)
    return 1 if worse else 0


async def _measure(models: Sequence[str], thesaurus: ThesaurusSettings) -> list[Asked]:
    records = load_records()
    questions = load_questions(records)
    say(f"{len(records)} records, {len(questions)} questions")
    with PostgresServer() as server:
        databases = TestDatabases(server.owner_url)
        await asyncio.to_thread(databases.prepare)
        asked: list[Asked] = []
        for model in models:
            database = await databases.clone()
            async with _store(model, database.service_url) as store:
                say(f"storing the records with {model}")
                ids = await _fill(store, records)
                queries = queries_of(store, synonyms=load_groups(thesaurus))
                asked += [
                    await _ask(queries, model, mode, question, ids, flat=flat)
                    for mode, flat in _WAYS
                    for question in questions
                ]
        return asked


@asynccontextmanager
async def _store(model: str, database_url: str) -> AsyncIterator[Store]:
    embedding = EmbeddingSettings()
    if model == "minilm":
        folder = await asyncio.to_thread(minilm_folder)
        embedding = EmbeddingSettings(provider="onnx", model_dir=str(folder), timeout_seconds=300.0)
    settings = Settings(database=DatabaseSettings(url=SecretStr(database_url)), embedding=embedding)
    async with open_store(settings, writable=True) as store:
        yield store


async def _fill(store: Store, records: Sequence[LabelledRecord]) -> dict[str, str]:
    """Store the records; return the labels' ids by uid. Raises BenchmarkError when one has no vector."""
    vectors = store.vectors
    if vectors is None:
        raise BenchmarkError("the store keeps no vectors")
    await vectors.embedder.probe()
    writer = build_writer(store, on_pending=lambda: None)
    archived = [record_of(_KINDS[each.kind], _body(each, number)) for number, each in enumerate(records)]
    # The vectors are made beforehand: those of a slow model would be pending at first.
    await vectors.embedder.embed(
        {record.text.hash: record.text.text for record in archived if record.text is not None},
        timeout_seconds=None,
    )
    stored = [
        row
        for start in range(0, len(archived), _BATCH)
        for row in await writer.store(archived[start : start + _BATCH])
    ]
    without = [
        row.vector.message or row.vector.reason
        for row in stored
        if row.vector.state is not WriteState.WRITTEN
    ]
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
    queries: ArchiveQueries,
    model: str,
    mode: SearchMode,
    question: Question,
    ids: Mapping[str, str],
    *,
    flat: bool,
) -> Asked:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        result = await queries.search(question.text, mode=mode, limit=_AT, flat=flat)
        ranking = [ids[hit.record.uid] for hit in result.hits]
    except InvalidQueryError:  # a question may have only words that are in every text
        ranking = []
    else:
        if result.degraded:
            raise BenchmarkError(f"the search was degraded: {result.degraded}")
    return Asked(
        model, mode, question,
        ndcg_at(_AT, ranking, question.relevant),
        graded_recall_at(_AT, ranking, question.relevant),
        loop.time() - started,
        flat,
    )  # fmt: skip


def _print(qualities: Sequence[Quality]) -> None:
    console = Console(width=110 if not sys.stdout.isatty() else None)
    for part in Part:
        columns = ("questions", "model", *SearchMode, "flat", "95 % of hybrid", "recall", "median ms")
        table = Table(f"nDCG@{_AT}, {part} part", *columns, box=None)
        for which in (ALL, *QuestionClass):
            found = [each for each in qualities if (each.part, each.question_class) == (part, which)]
            for model in dict.fromkeys(each.model for each in found):
                by_way = {(each.mode, each.flat): each for each in found if each.model == model}
                hybrid = by_way[SearchMode.HYBRID, False]
                table.add_row(
                    which, str(hybrid.questions), model,
                    *(f"{by_way[way].ndcg:.3f}" for way in _WAYS),
                    "{:.2f} to {:.2f}".format(*hybrid.ndcg_interval), f"{hybrid.recall:.3f}",
                    f"{hybrid.median_ms:.1f}",
                )  # fmt: skip
        console.print(table)


def _print_worst(asked: Sequence[Asked], count: int) -> None:
    found = (each for each in asked if each.mode is SearchMode.HYBRID and not each.flat)
    hybrid = sorted(found, key=lambda each: each.ndcg)
    for each in hybrid[:count]:
        print(f"  {each.model}: {each.ndcg:.2f} {each.question.text}")


if __name__ == "__main__":
    sys.exit(main())
