"""The command line."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from benchmarks.vector_index import builds, filters, parts, recent
from benchmarks.vector_index.bench import Bench, Sizes
from benchmarks.vector_index.corpus import Corpus
from benchmarks.vector_index.results import Results
from benchmarks.vector_index.server import Server
from benchmarks.vector_index.writing import STEADY_ROWS_PER_SECOND

DESCRIPTION: Final = """\
Measures how vectors are best indexed, on a PostgreSQL with default, durable settings.

  recent   one HNSW index that every write goes into, beside a recent table without
           index that is searched exactly and emptied in the background: cost of
           writing and moving, search alone and under 200 rows/s
  parts    an archive of parts that each get their index at once when they are full
  builds   building an index with 64 MB, 256 MB, 1 GB of memory
  formats  32 and 16 bits a number, and smaller graphs
  filters  searching among the rows that a filter leaves: iterative index scan
           against computing all distances"""
SECTIONS: Final = ("recent", "filters", "formats", "builds", "parts")


def main() -> int:
    arguments = _parser().parse_args()
    directory = Path(tempfile.mkdtemp(prefix="datastorage-vectors-"))
    results = Results()
    about: dict[str, Any] = report.machine(kubernetes="none", postgres="")
    try:
        uvloop.run(_run(arguments, directory / "data", results, about))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if arguments.json is not None:
            arguments.json.write_text(results.as_json(about) + "\n")
    results.print_tables(
        f"{about['cores']} cores, {about['processor']}, PostgreSQL {about['versions']['postgresql']}, "
        f"{arguments.dimensions} dimensions, shared_buffers {arguments.shared_buffers}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vector_index",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a small run: 10,000 rows, 50 queries")
    parser.add_argument(
        "--rows", type=int, nargs="+", metavar="N", help="sizes to measure at (default: 100000)"
    )
    parser.add_argument("--dimensions", type=int, default=256, choices=(64, 128, 256), help="of a vector")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}",
    )  # fmt: skip
    parser.add_argument("--part-rows", type=int, nargs="+", metavar="N", help="sizes of a part")
    parser.add_argument(
        "--shared-buffers", default="128MB", metavar="SIZE", help="of PostgreSQL (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    return parser


def _sizes(arguments: argparse.Namespace, rows: int) -> Sizes:
    quick = bool(arguments.quick)
    part_rows = arguments.part_rows or [size for size in (20_000, 50_000) if size < rows]
    return Sizes(
        rows=rows,
        rounds=1 if quick else 3,
        round_rows=1000 if quick else 10_000,
        load_seconds=2 if quick else 12,
        recent=(1000,) if quick else (1000, 5000, 10_000, 20_000, 50_000),
        part_rows=tuple(part_rows) if part_rows else (rows // 2,),
        built=min(rows, 200_000),
        candidates=(100, 1000) if quick else (100, 1000, 5000, 10_000, 20_000),
    )


def _spare(sizes: Sizes) -> int:
    """Return how many rows the writes take, generously."""
    steady = int(4 * 2 * sizes.load_seconds * STEADY_ROWS_PER_SECOND)
    return 4 * sizes.rounds * sizes.round_rows + max(sizes.recent) + steady + 20_000


async def _run(
    arguments: argparse.Namespace, directory: Path, results: Results, about: dict[str, Any]
) -> None:
    all_rows = arguments.rows or [10_000 if arguments.quick else 100_000]
    for rows in all_rows:
        sizes = _sizes(arguments, rows)
        say(f"Embedding {rows} texts")
        corpus = Corpus(rows + _spare(sizes), 50 if arguments.quick else 200, arguments.dimensions)
        async with Server(directory / str(rows), arguments.shared_buffers) as server:
            about["versions"]["postgresql"] = server.version
            await _measure(Bench(server, corpus, results, sizes, arguments.dimensions), arguments.only)
        await asyncio.to_thread(shutil.rmtree, directory / str(rows), ignore_errors=True)


async def _measure(bench: Bench, only: tuple[str, ...]) -> None:
    if {"recent", "filters"} & set(only):
        say(f"The index over {bench.sizes.rows} rows")
        await recent.prepare(bench)
    if "recent" in only:
        await recent.measure_search(bench)
        at = await recent.measure_all_writes(bench, bench.sizes.rows)
        await recent.measure_recent_scans(bench, at)
        await recent.measure_under_load(bench, at + max(bench.sizes.recent))
    if "filters" in only:
        await filters.measure_filters(bench)
    await bench.server.execute("DROP TABLE IF EXISTS indexed, recent")
    if "formats" in only:
        await builds.measure_formats(bench)
    if "builds" in only:
        await builds.measure_builds(bench)
    if "parts" in only:
        await parts.measure_parts(bench)


if __name__ == "__main__":
    sys.exit(main())
