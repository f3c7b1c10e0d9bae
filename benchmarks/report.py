"""The results for people (tables) and for programs (JSON)."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.results import Cost, Result
from benchmarks.targets import Verdict

_LIBRARIES: Final = ("kubernaut-datastorage", "kopf", "kubernetes", "asyncpg", "aiohttp", "uvloop")
_PIPED_WIDTH: Final = 160
# Above this share the other programs of the machine change what is measured.
_QUIET: Final = 0.1


def machine(*, kubernetes: str, postgres: str) -> dict[str, Any]:
    """Return a description of the machine and the versions."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "kubernetes": kubernetes,
            "postgresql": postgres,
            "libraries": {name: version(name) for name in _LIBRARIES},
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_json(about: Mapping[str, Any], results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    """Return the whole run as one JSON object."""
    return json.dumps(
        {
            **about,
            "scenarios": {result.scenario: asdict(result) for result in results},
            "targets": [
                {
                    "scenario": verdict.target.scenario,
                    "name": verdict.target.name,
                    "wanted": verdict.target.wanted,
                    "value": verdict.value,
                    "met": verdict.met,
                }
                for verdict in verdicts
            ],
        },
        indent=2,
    )


def print_tables(about: Mapping[str, Any], results: Sequence[Result], verdicts: Sequence[Verdict]) -> None:
    """Print the results and the targets; plain when the output is no terminal."""
    piped = not sys.stdout.isatty()
    console = Console(width=_PIPED_WIDTH if piped else None, no_color=piped, highlight=False)
    versions = about["versions"]
    console.print(
        f"{about['cores']} cores, {about['processor']}, Kubernetes {versions['kubernetes']}, "
        f"PostgreSQL {versions['postgresql']}, Python {versions['python']}"
    )
    console.print(_results_table(results))
    console.print(
        "  * operator/PostgreSQL/API server with etcd; others: CPU of the machine that other programs used"
    )
    if any(result.others_cpu_share > _QUIET for result in results):
        console.print("  The machine was not quiet: rates, ratios and latencies say little. Run it again.")
    for result in results:
        if result.cost:
            counted = ", ".join(f"{verb} {count}" for verb, count in result.cost.requests.items())
            console.print(f"  {result.scenario}: requests counted by the API server: {counted}")
    for result in results:
        if result.figures:
            figures = ", ".join(f"{name} {value:g}" for name, value in result.figures.items())
            console.print(f"  {result.scenario}: {figures}")
    console.print(_targets_table(verdicts))


def _results_table(results: Sequence[Result]) -> Table:
    table = Table(
        "", "scenario", "objects", "objects/s", "of the limit", "API writes/object", "CPU ms/object*",
        "peak RSS MiB", "p50/p95/p99 ms", "others", box=SIMPLE_HEAD,
    )  # fmt: skip
    for result in results:
        cost, latency = result.cost, result.latency
        table.add_row(
            result.scenario,
            result.title,
            str(result.objects),
            ", ".join(f"{name} {rate:.0f}" for name, rate in result.rates.items()),
            f"{result.ratio_to_limit:.2f}" if result.ratio_to_limit is not None else "",
            f"{cost.writes_per_object:g}" if cost else "",
            _cpu(cost) if cost else "",
            f"{cost.peak_rss_mib:.0f}" if cost else "",
            f"{latency.p50_ms:.0f}/{latency.p95_ms:.0f}/{latency.p99_ms:.0f}" if latency else "",
            f"{result.others_cpu_share:.0%}",
        )
    return table


def _cpu(cost: Cost) -> str:
    return (
        f"{cost.cpu_ms_per_object:.2f}/{cost.postgres_cpu_ms_per_object:.2f}"
        f"/{cost.control_plane_cpu_ms_per_object:.2f}"
    )


def _targets_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("", "target", "wanted", "measured", "", box=SIMPLE_HEAD)
    for verdict in verdicts:
        target = verdict.target
        table.add_row(
            target.scenario, target.name, target.wanted, f"{verdict.value:g}",
            "[green]reached[/green]" if verdict.met else "[red]MISSED[/red]",
        )  # fmt: skip
    return table
