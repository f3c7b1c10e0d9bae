"""The environment of all scenarios: the control plane, PostgreSQL, the two identities, and the counting."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from benchmarks import apimetrics
from benchmarks.archives import Archive, archives
from benchmarks.client import Client, Created, for_each
from benchmarks.cpu import cpu_seconds
from benchmarks.errors import BenchmarkError, LossError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import Progress, say
from benchmarks.records import audit_record
from benchmarks.results import Cost
from harness.controlplane import ControlPlane

_OPERATOR: Final = ("datastorage-system", "datastorage")
_PRODUCER: Final = ("datastorage-system", "benchmark-producer")
# The rights of a controller that records its steps, and reading for the checks.
_PRODUCER_RIGHTS: Final = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: benchmark-producer, namespace: datastorage-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: benchmark-producer}
rules:
  - apiGroups: [datastorage.kubernaut.io]
    resources: [auditrecords]
    verbs: [create, get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: benchmark-producer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: benchmark-producer}
subjects: [{kind: ServiceAccount, name: benchmark-producer, namespace: datastorage-system}]
"""
# A drain that makes no progress for this long has failed.
_STALL_SECONDS: Final = 60.0
_LEAST_POLL_SECONDS: Final = 0.05
_MOST_POLL_SECONDS: Final = 0.5
# Polls are frequent near the end and rare far from it: objects that are left for each second of pause.
_OBJECTS_PER_POLL_SECOND: Final = 2000


@dataclass
class Meter:
    """The cost of a scenario outside the operator, filled in when its context ends. CPU times in seconds."""

    requests: apimetrics.Requests = field(default_factory=Counter)
    postgres_cpu: float = 0.0
    control_plane_cpu: float = 0.0


@dataclass
class Bench:
    """A control plane with the product installed and no operator; a context manager."""

    control_plane: ControlPlane
    directory: Path
    create_concurrency: int = 16
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._install)
        account = self.control_plane.service_account_kubeconfig
        self.operator_kubeconfig = await asyncio.to_thread(account, *_OPERATOR)
        producer_kubeconfig = await asyncio.to_thread(account, *_PRODUCER)
        self.producer = await self._stack.enter_async_context(Client.connect(producer_kubeconfig))
        # The bare client writes and deletes as the operator does, under the same token.
        self.writer = await self._stack.enter_async_context(Client.connect(self.operator_kubeconfig))
        self.archives = await self._stack.enter_async_context(archives())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _install(self) -> None:
        self.control_plane.apply_product()
        self.control_plane.kubectl("apply", "-f", "-", input=_PRODUCER_RIGHTS)

    async def namespace(self, name: str) -> str:
        """Make a namespace."""
        await asyncio.to_thread(self.control_plane.kubectl, "create", "namespace", name)
        return name

    async def create(
        self, namespace: str, count: int, *, ttl_seconds: int | None = None, texts: int | None = None
    ) -> list[Created]:
        """Create ``count`` records, with ``texts`` different texts, as fast as the API server takes them."""
        say(f"    creating {count} objects")
        return await for_each(
            range(count),
            lambda number: self.producer.create(
                namespace,
                audit_record(f"record-{number:06d}", number, ttl_seconds=ttl_seconds, texts=texts),
            ),
            concurrency=self.create_concurrency,
            progress=Progress("created", count),
        )

    @asynccontextmanager
    async def metered(self) -> AsyncIterator[Meter]:
        """Measure requests and CPU times within the context; the benchmark's own requests are left out."""
        meter = Meter()
        before, own_before = await self._requests(), self._own_requests()
        postgres_before, control_plane_before = self._postgres_cpu(), self._control_plane_cpu()
        yield meter
        meter.postgres_cpu = self._postgres_cpu() - postgres_before
        meter.control_plane_cpu = self._control_plane_cpu() - control_plane_before
        after, own_after = await self._requests(), self._own_requests()
        after.subtract(before)
        after.subtract(own_after)
        after.update(own_before)
        meter.requests.update(after)

    def operator(
        self, archive: Archive, program: Sequence[str] = ("-m", "datastorage"), **settings: object
    ) -> MeasuredOperator:
        """Return the operator on this control plane and database, not started yet.

        Settings are given by their names without the prefix. ``program`` is what Python runs.
        """
        directory = self.directory / f"operator-{time.time_ns()}"
        return MeasuredOperator(
            self.operator_kubeconfig, archive.service_url, directory,
            {"TTL_SECONDS_AFTER_STORED": 1, **settings}, program,
        )  # fmt: skip

    async def until_gone(self, namespace: str, total: int, operator: MeasuredOperator) -> float:
        """Wait until the namespace has no objects; return when the last had gone (Unix seconds).

        Raises BenchmarkError when nothing goes for a long time.
        """
        progress, least, moved = Progress("cleared", total), total, time.monotonic()
        while True:
            left = await self.producer.count(namespace)
            now = time.time()
            if left == 0:
                return now
            operator.check()
            progress.update(total - left)
            if left < least:
                least, moved = left, time.monotonic()
            elif time.monotonic() - moved > _STALL_SECONDS:
                raise BenchmarkError(
                    f"{left} of {total} objects are still there, and no more are being deleted"
                )
            pause = left / _OBJECTS_PER_POLL_SECOND
            await asyncio.sleep(min(_MOST_POLL_SECONDS, max(_LEAST_POLL_SECONDS, pause)))

    async def verify(self, namespace: str, archive: Archive, created: list[Created]) -> None:
        """Raise LossError unless every created object has one row, and none is left in the cluster."""
        await archive.verify({each.uid for each in created})
        left = await self.producer.count(namespace)
        if left:
            raise LossError(f"{left} objects are left in the cluster")

    async def _requests(self) -> apimetrics.Requests:
        return apimetrics.parse_requests(await asyncio.to_thread(self.control_plane.metrics))

    def _postgres_cpu(self) -> float:
        return cpu_seconds([self.archives.server.pid])

    def _control_plane_cpu(self) -> float:
        return cpu_seconds(self.control_plane.pids.values())

    def _own_requests(self) -> apimetrics.Requests:
        return self.producer.requests + self.writer.requests


def cost_of(operator: MeasuredOperator, count: int) -> Callable[[Meter], Cost]:
    """Read what the operator has used so far; return a function that adds the values of the meter."""
    cpu, rss = operator.cpu_seconds, operator.peak_rss_mib

    def with_requests(meter: Meter) -> Cost:
        return Cost(
            cpu_ms_per_object=round(1000 * cpu / count, 2),
            postgres_cpu_ms_per_object=round(1000 * meter.postgres_cpu / count, 2),
            control_plane_cpu_ms_per_object=round(1000 * meter.control_plane_cpu / count, 2),
            peak_rss_mib=round(rss, 1),
            writes_per_object=round(apimetrics.writes(meter.requests) / count, 4),
            requests=apimetrics.by_verb(meter.requests),
        )

    return with_requests
