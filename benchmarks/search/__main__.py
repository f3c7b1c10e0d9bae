"""make bench-search: how well searches by meaning, by words and by both find the right records.

Every record of the labelled set is stored as the operator stores it (text, embedding, PostgreSQL), and every
question is asked as 'datastorage search' asks it, and for hybrid also with --flat, which shows what it
costs that a page has few records of each incident. nDCG@10 and recall@10 are means over the questions of
each part of the set, of both, and of each class. The questions' vectors are made beforehand, and no time of a
search includes them: the mode that is asked first would otherwise pay for the others. The exit code is 1
where hybrid is worse than meaning or words alone, beyond what the choice of questions explains. --choose
shows instead how the scale of the ranking was chosen (query/fusion.py): with the questions of both parts.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from benchmarks.search.choosing import FOLDS, Choice, choose
from benchmarks.search.dataset import (
    LabelledRecord,
    Question,
    QuestionClass,
    load_questions,
    load_records,
)
from benchmarks.search.measures import graded_recall_at, interval_of_mean, ndcg_at
from benchmarks.search.quality import ALL, Asked, Quality, qualities_of, where_hybrid_is_worse
from datastorage.assembly.searching import by_meaning, queries_of
from datastorage.assembly.shard import build_writer
from datastorage.assembly.store import Store, open_store
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.fusion import Scale
from datastorage.query.questions import ArchiveQueries
from datastorage.query.search import Searcher
from datastorage.query.searchresult import SearchResult
from datastorage.records.vectorwrite import WriteState
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.reading.objectrecord import record_of
from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings, EmbeddingSettings, ThesaurusSettings
from datastorage.storage.fulltext import FullText
from datastorage.storage.hits import HitReader
from datastorage.storage.synonyms import SynonymGroups
from datastorage.thesaurus.loading import load_groups
from harness.objects import served
from harness.onnxmodel import minilm_folder
from harness.postgres import PostgresServer, TestDatabases

T = TypeVar("T")

_AT: Final = 10
_BATCH: Final = 100
_KINDS: Final = {kind.kind: kind for kind in (AUDIT_RECORD, ACTION_TRACE)}
_WAYS: Final = (*((mode, False) for mode in SearchMode), (SearchMode.HYBRID, True))
"""Each mode, and whether the answer is a plain list."""
_SCALES: Final = [
    Scale(all_words, power, noise)
    for noise, power, all_words in itertools.product(
        (0.0, 1.0, 1.5, 2.0), (1.5, 1.75, 2.0), (8.0, 10.0, 12.0)
    )
]
"""Those among which one is chosen."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--model", choices=["wordllama", "minilm"], action="append", help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="show the N worst questions of hybrid"
    )
    parser.add_argument("--no-thesaurus", action="store_true", help="search without synonyms")
    parser.add_argument(
        "--choose", action="store_true", help="show how the scale was chosen, and do nothing else"
    )
    options = parser.parse_args()
    models = options.model or ["wordllama", "minilm"]
    synonyms = load_groups(ThesaurusSettings(enabled=not options.no_thesaurus))
    try:
        if options.choose:
            _print_choice(asyncio.run(_figures_of_scales(models, synonyms)))
            return 0
        asked = asyncio.run(_measure(models, synonyms))
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


async def _measure(models: Sequence[str], synonyms: SynonymGroups) -> list[Asked]:
    records = load_records()
    questions = load_questions(records)
    say(f"{len(records)} records, {len(questions)} questions")

    async def ask(model: str, store: Store, ids: Mapping[str, str]) -> list[Asked]:
        queries = queries_of(store, synonyms=synonyms)
        await _embed(store, questions)
        return [
            await _ask(queries, model, mode, question, ids, flat=flat)
            for mode, flat in _WAYS
            for question in questions
        ]

    return list(itertools.chain.from_iterable(await _with_each(models, records, ask)))


async def _figures_of_scales(models: Sequence[str], synonyms: SynonymGroups) -> dict[Scale, list[float]]:
    """Return the nDCG of each question with each scale: the mean over the models."""
    records = load_records()
    questions = load_questions(records)
    say(f"{len(records)} records, {len(questions)} questions, {len(_SCALES)} scales")

    async def ask(model: str, store: Store, ids: Mapping[str, str]) -> list[list[float]]:
        assert store.vectors is not None, "_fill has checked it"
        hits = HitReader(store.database)
        full_text = FullText(store.database, synonyms=synonyms)
        meaning = by_meaning(store.database, store.vectors.embedder)
        criteria = Filter().criteria()
        rows = []
        for scale in _SCALES:
            searcher = Searcher(hits, full_text, meaning, scale=scale)
            rankings = [
                await _ranking(
                    searcher.search(each.text, criteria, mode=SearchMode.HYBRID, limit=_AT, flat=False), ids
                )
                for each in questions
            ]
            rows.append([ndcg_at(_AT, *each) for each in zip(rankings, _labels(questions), strict=True)])
            say(f"{model}, {scale}: {statistics.fmean(rows[-1]):.4f}")
        return rows

    of_models = await _with_each(models, records, ask)
    return {
        scale: [statistics.fmean(figures) for figures in zip(*rows, strict=True)]
        for scale, *rows in zip(_SCALES, *of_models, strict=True)
    }


def _labels(questions: Sequence[Question]) -> list[Mapping[str, int]]:
    return [question.relevant for question in questions]


async def _with_each(
    models: Sequence[str],
    records: Sequence[LabelledRecord],
    ask: Callable[[str, Store, Mapping[str, str]], Awaitable[T]],
) -> list[T]:
    """Store the records with each model, and ask; ``ask`` gets the labels' ids by uid."""
    answers: list[T] = []
    with PostgresServer() as server:
        databases = TestDatabases(server.owner_url)
        await asyncio.to_thread(databases.prepare)
        for model in models:
            database = await databases.clone()
            async with _store(model, database.service_url) as store:
                say(f"storing the records with {model}")
                answers.append(await ask(model, store, await _fill(store, records)))
    return answers


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
    archived = [record_of(_KINDS[each.kind], _body(each)) for each in records]
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


def _body(record: LabelledRecord) -> dict[str, Any]:
    # Equally good records stand in the order of their times: here, of what they tell.
    execution = record.spec.get("execution", {})
    created = record.spec.get("startTime") or execution["startTime"]
    return served(
        _KINDS[record.kind], record.spec,
        name=record.name, namespace=record.namespace, creationTimestamp=created,
    )  # fmt: skip


async def _embed(store: Store, questions: Sequence[Question]) -> None:
    """Put the questions' vectors into the cache, so that no mode is timed with making them."""
    assert store.vectors is not None, "_fill has checked it"
    for question in questions:
        with suppress(InvalidQueryError):  # as when it is asked
            await store.vectors.embedder.embed_query(question.text)


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
    ranking = await _ranking(queries.search(question.text, mode=mode, limit=_AT, flat=flat), ids)
    return Asked(
        model, mode, question,
        ndcg_at(_AT, ranking, question.relevant),
        graded_recall_at(_AT, ranking, question.relevant),
        loop.time() - started,
        flat,
    )  # fmt: skip


async def _ranking(search: Awaitable[SearchResult], ids: Mapping[str, str]) -> list[str]:
    """Return the ids of what a search finds. Raises BenchmarkError if it was degraded."""
    try:
        result = await search
    except InvalidQueryError:  # a question in a language without spaces may have no words, say
        return []
    if result.degraded:
        raise BenchmarkError(f"the search was degraded: {result.degraded}")
    return [ids[hit.record.uid] for hit in result.hits]


def _print(qualities: Sequence[Quality]) -> None:
    console = Console(width=110 if not sys.stdout.isatty() else None)
    for part in dict.fromkeys(each.part for each in qualities):
        columns = ("questions", "model", *SearchMode, "flat", "95 % of hybrid", "recall", "median ms")
        table = Table(f"nDCG@{_AT}, {part}", *columns, box=None)
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


def _print_choice(figures: Mapping[Scale, Sequence[float]]) -> None:
    choice: Choice[Scale] = choose(figures)
    columns = ("noise", "power", "all words", f"nDCG@{_AT}", f"chosen in folds of {FOLDS}")
    table = Table(*columns, box=None)
    for scale, values in figures.items():
        mark = " (in use)" if scale == Scale() else ""
        chosen = str(choice.of_folds[scale] or "") + (" (best)" if scale == choice.best else "")
        table.add_row(
            f"{scale.noise:g}", f"{scale.power:g}", f"{scale.all_words:g}{mark}",
            f"{statistics.fmean(values):.4f}", chosen,
        )  # fmt: skip
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    in_use = figures[Scale()]
    print(f"of a choice made in this way: {statistics.fmean(choice.held_out):.4f}")
    for noise in dict.fromkeys(scale.noise for scale in figures):
        best = max(
            (scale for scale in figures if scale.noise == noise),
            key=lambda scale: statistics.fmean(figures[scale]),
        )
        pairs = zip(in_use, figures[best], strict=True)
        low, high = interval_of_mean([ours - theirs for ours, theirs in pairs])
        print(f"the one in use minus the best of noise {noise:g}: {low:+.4f} to {high:+.4f}")


def _print_worst(asked: Sequence[Asked], count: int) -> None:
    found = (each for each in asked if each.mode is SearchMode.HYBRID and not each.flat)
    hybrid = sorted(found, key=lambda each: each.ndcg)
    for each in hybrid[:count]:
        print(f"  {each.model}: {each.ndcg:.2f} {each.question.text}")


if __name__ == "__main__":
    sys.exit(main())
