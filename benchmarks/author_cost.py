"""Measure what the policy that names authors costs: requests with and without it, in pairs.

The policy is bound to one of two namespaces. Each pair of requests goes to both, in an order that alternates,
so that a disturbance of the machine meets both alike.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.cpu import Disturbance
from benchmarks.records import audit_record
from datastorage.resources.kinds import AUDIT_RECORD, RECORDED_BY_ANNOTATION
from harness import REPOSITORY
from harness.bulk import BulkClient
from harness.controlplane import ControlPlane
from harness.polling import until

_POLICY: Final = REPOSITORY / "manifests" / "components" / "recorded-by" / "policy.yaml"
_WITH: Final = "with-policy"
_WITHOUT: Final = "without-policy"
_WARM_UP: Final = 50
_PERCENT: Final = 100

Send = Callable[[str, int], Awaitable[object]]
"""Sends a request to a namespace; the number makes it another one each time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Milliseconds of the same request with and without the policy."""

    with_policy: float
    without_policy: float

    @property
    def difference(self) -> float:
        """The milliseconds that the policy has taken."""
        return self.with_policy - self.without_policy


async def measure(kubeconfig: Path, pairs: int) -> dict[str, list[Pair]]:
    """Return the times of creates, and of changes of a label, by what was done."""
    async with BulkClient.connect(kubeconfig) as client:

        async def stamped() -> bool:
            made = await client.create(AUDIT_RECORD, _WITH, audit_record(f"probe-{time.monotonic_ns()}", 1))
            return RECORDED_BY_ANNOTATION in made["metadata"].get("annotations", {})

        async def create(namespace: str, number: int) -> None:
            await client.create(AUDIT_RECORD, namespace, audit_record(f"record-{number}", number))

        async def label(namespace: str, number: int) -> None:
            change = {"metadata": {"labels": {"looked-at": "yes"}}}
            await client.patch(AUDIT_RECORD, namespace, f"record-{number}", change)

        await until(stamped, seconds=30, what="the policy is applied")
        return {"create": await _paired(create, pairs), "change of a label": await _paired(label, pairs)}


async def _paired(send: Send, pairs: int) -> list[Pair]:
    found: list[Pair] = []
    for number in range(_WARM_UP + pairs):
        times: dict[str, float] = {}
        for namespace in (_WITH, _WITHOUT)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            await send(namespace, number)
            times[namespace] = (time.perf_counter() - started) * 1000
        found.append(Pair(times[_WITH], times[_WITHOUT]))
    return found[_WARM_UP:]


def bound_to_one_namespace() -> list[dict[str, Any]]:
    """Return the policy and its binding as they are shipped, but for one namespace."""
    policy, binding = yaml.safe_load_all(_POLICY.read_text())
    selector = {"matchLabels": {"kubernetes.io/metadata.name": _WITH}}
    return [
        policy,
        {**binding, "spec": {**binding["spec"], "matchResources": {"namespaceSelector": selector}}},
    ]


def table_of(found: dict[str, list[Pair]]) -> Table:
    """Return the results as a table."""
    table = Table("request", "pairs", "without, median ms", "with, median ms", "difference, median ms",
                  "95 % of medians", box=None)  # fmt: skip
    for name, pairs in found.items():
        differences = [pair.difference for pair in pairs]
        low, high = _interval(differences)
        table.add_row(
            name, f"{len(pairs):,}",
            f"{statistics.median(pair.without_policy for pair in pairs):.2f}",
            f"{statistics.median(pair.with_policy for pair in pairs):.2f}",
            f"{statistics.median(differences):.2f}", f"{low:.2f} to {high:.2f}",
        )  # fmt: skip
    return table


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bounds of the true median with a probability of 95 %, by the order of the values."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    middle = len(ordered) / 2
    return ordered[max(0, int(middle - half))], ordered[min(len(ordered) - 1, int(middle + half))]


def main() -> int:
    """Measure on a control plane of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.author_cost", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000, help="pairs of each request (default 1,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ds-") as directory, ControlPlane(Path(directory)) as cluster:
        cluster.apply_product()
        for namespace in (_WITH, _WITHOUT):
            cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(bound_to_one_namespace()))
        disturbance = Disturbance(cluster.pids.values())
        found = asyncio.run(measure(cluster.admin_kubeconfig, arguments.pairs))
        others = disturbance.share()
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(found))
    print(f"Others used {others * _PERCENT:.0f} % of the machine.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
