"""The command line of the benchmark."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import countingcost, largearchive, readsmeanwhile, report, rest, scenarios, sharding, vectors
from benchmarks.bench import Bench
from benchmarks.cpu import Disturbance
from benchmarks.errors import BenchmarkError
from benchmarks.progress import say
from benchmarks.results import Result
from benchmarks.targets import judge
from harness.bulk import RequestError
from harness.controlplane import ControlPlane, ControlPlaneError

DESCRIPTION = """\
Measures the operator on a real control plane (etcd, API server, RBAC, admission
policies) and a real PostgreSQL, and beside it what that API server can do alone.

  a  the API server's own limit: a bare client creates, status-patches, deletes
  b  the operator drains waiting objects: stored, status written, deleted
  c  the same at ttlSecondsAfterStored 0: stored, deleted
  d  latency from created to Stored at 50 objects/s
  e  a large backlog waiting at the start: rows/s, drain/s, peak memory
  f  what vectors cost: the drain without, with few and with all texts distinct
  g  the drain with an embedder over HTTP, and with Redis or the embedder away
  h  outages of Redis, embedder, vector server: nothing may be lost; time until all is Stored
  i  searches of many distinct texts, with and without filters, and during writes
  j  the REST API: single requests, batches, reads, with tokens and vectors
  k  the REST API's reads of an archive of a million records
  l  the drain while questions are asked
  m  the drain by three replicas, with one shard and with three
  n  what the metrics cost: the CPU of drains with them and without"""
EPILOG = """\
The ratio b/a says how much of the limit the operator reaches. Without a in
--only there is no ratio. DATASTORAGE_ settings of the environment reach the operator.

Exit status: 0 when all ran and nothing was lost, whether or not the targets were
reached; 1 when a record was lost or a scenario could not be run."""
SCENARIOS: Final = "abcdefghijklmn"


@dataclass(frozen=True)
class Sizes:
    """How much is measured: numbers of objects, of distinct texts and of rows, and durations in seconds."""

    objects: int
    latency_seconds: int
    backlog: int
    outage_seconds: int
    texts: int
    rows: int


FULL: Final = Sizes(
    objects=3000, latency_seconds=20, backlog=50_000, outage_seconds=30, texts=100_000, rows=1_000_000
)
QUICK: Final = Sizes(objects=500, latency_seconds=5, backlog=3000, outage_seconds=5, texts=5_000, rows=20_000)


def main() -> int:
    arguments = _parser().parse_args()
    only = _chosen(arguments.only)
    sizes = QUICK if arguments.quick else FULL
    sizes = replace(
        sizes,
        objects=arguments.objects or sizes.objects,
        backlog=arguments.backlog or sizes.backlog,
        rows=arguments.rows or sizes.rows,
    )
    directory = Path(tempfile.mkdtemp(prefix="datastorage-bench-"))
    try:
        say("Starting the control plane (it is built first if that was never done)")
        with ControlPlane(directory / "controlplane") as control_plane:
            about, results = uvloop.run(_measure(control_plane, directory, only, sizes))
    except (BenchmarkError, ControlPlaneError, RequestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _report(about, results, arguments.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true",
        help=f"a small run: {QUICK.objects} objects, {QUICK.latency_seconds} s, backlog of {QUICK.backlog}",
    )  # fmt: skip
    parser.add_argument("--only", default=SCENARIOS, metavar="a,b,…", help="run these scenarios alone")
    parser.add_argument(
        "-n", "--objects", type=_positive, metavar="N", help=f"objects in a, b, c (default: {FULL.objects})"
    )
    parser.add_argument(
        "--backlog", type=_positive, metavar="N", help=f"objects in e (default: {FULL.backlog})"
    )
    parser.add_argument(
        "--rows", type=_positive, metavar="N", help=f"records in the archive of k (default: {FULL.rows})"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the JSON there instead of after the tables"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _chosen(only: str) -> str:
    chosen = only.replace(",", "").replace(" ", "")
    unknown = set(chosen) - set(SCENARIOS)
    if unknown or not chosen:
        raise SystemExit(f"--only takes letters of {','.join(SCENARIOS)}, not {only!r}")
    return chosen


async def _measure(
    control_plane: ControlPlane, directory: Path, only: str, sizes: Sizes
) -> tuple[dict[str, Any], list[Result]]:
    say("Installing the product and starting PostgreSQL")
    async with Bench(control_plane, directory) as bench:
        about = report.machine(
            kubernetes=json.loads(control_plane.kubectl("get", "--raw", "/version").stdout)["gitVersion"],
            postgres=bench.archives.version,
        )
        return about, await _run(bench, only, sizes)


async def _run(bench: Bench, only: str, sizes: Sizes) -> list[Result]:
    results: list[Result] = []

    async def add(text: str, measurement: Awaitable[Result]) -> None:
        say(text)
        disturbance = Disturbance([bench.archives.server.pid])
        result = await measurement
        results.append(replace(result, others_cpu_share=disturbance.share()))

    limits: list[scenarios.Limit] = []

    async def limit(name: str) -> Result:
        limits.append(await scenarios.measure_limit(bench, name, sizes.objects, concurrency))
        return scenarios.limit_result(limits[-1], sizes.objects)

    if "a" in only:
        say("Trying how many requests at a time serve the bare client best")
        concurrency = await scenarios.find_concurrency(bench)
        await add(f"(a) the API server alone, {sizes.objects} objects", limit("limit-before"))
    if "b" in only:
        text = f"(b) the operator drains {sizes.objects} objects"
        await add(text, scenarios.measure_drain(bench, sizes.objects))
    if "c" in only:
        text = f"(c) the operator drains {sizes.objects} objects at ttl 0"
        await add(text, scenarios.measure_drain_at_once(bench, sizes.objects))
    if "d" in only:
        await add("(d) latency", scenarios.measure_latency(bench, sizes.latency_seconds))
    if "e" in only:
        text = f"(e) a backlog of {sizes.backlog} objects"
        await add(text, scenarios.measure_backlog(bench, sizes.backlog))
    for letter, text, measurement in _of_several(bench, sizes):
        if letter in only:
            say(text)
            disturbance = Disturbance([bench.archives.server.pid])
            measured = await measurement()
            results += [replace(result, others_cpu_share=disturbance.share()) for result in measured]
    if not limits:
        return results
    if len(only) > 1:
        # The speed of a machine varies: the limit is measured before and after the other scenarios.
        await add("(a) once more, after the others", limit("limit-after"))
    return _with_limit(results, limits)


def _of_several(bench: Bench, sizes: Sizes) -> list[tuple[str, str, Callable[[], Awaitable[list[Result]]]]]:
    return [
        ("f", f"(f) {sizes.objects} objects without and with vectors",
         lambda: vectors.measure_drains(bench, sizes.objects)),
        ("g", f"(g) {sizes.objects} objects with Redis or the embedder away",
         lambda: vectors.measure_drains_degraded(bench, sizes.objects)),
        ("i", f"(i) searches of {sizes.texts} distinct texts",
         lambda: vectors.measure_search(bench, sizes.texts)),
        ("h", f"(h) outages of {sizes.outage_seconds} s under load",
         lambda: vectors.measure_outages(bench, sizes.outage_seconds)),
        ("j", f"(j) the REST API, {sizes.objects} records",
         lambda: rest.measure_rest(bench, sizes.objects)),
        ("l", f"(l) the drain of {sizes.objects} objects while questions are asked",
         lambda: readsmeanwhile.measure_reads_meanwhile(bench, sizes.objects)),
        ("k", f"(k) reads of an archive of {sizes.rows:,} records",
         lambda: largearchive.measure_large_archive(bench, sizes.rows, sizes.objects)),
        ("m", f"(m) the drain of {sizes.objects} objects by three replicas",
         lambda: sharding.measure_sharding(bench, sizes.objects)),
        ("n", f"(n) the drain of {sizes.objects} objects with and without metrics",
         lambda: countingcost.measure_counting_cost(bench, sizes.objects)),
    ]  # fmt: skip


def _with_limit(results: list[Result], limits: list[scenarios.Limit]) -> list[Result]:
    """Average the measurements of the limit, and give the other results their ratio to it."""
    if len(limits) > 1:
        first, last = results[0], results.pop()
        limits = [limits[0].mean(limits[1])]
        merged = scenarios.limit_result(limits[0], first.objects)
        results[0] = replace(merged, others_cpu_share=max(first.others_cpu_share, last.others_cpu_share))
    return [scenarios.with_ratio(result, limits[0]) for result in results]


def _report(about: dict[str, Any], results: Sequence[Result], json_file: Path | None) -> None:
    verdicts = judge({result.scenario: result for result in results})
    report.print_tables(about, results, verdicts)
    text = report.as_json(about, results, verdicts)
    if json_file is not None:
        json_file.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
