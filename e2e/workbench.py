"""One test's own operator, database and namespace on the shared control plane."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from datastorage.records.record import Table
from datastorage.resilience.outcomes import value_or_raise
from harness.absent import as_in_image
from harness.controlplane import Cluster
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.proxy import FreezableProxy

_WRITE = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>[0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_HAS_ROW = "SELECT EXISTS (SELECT FROM datastorage.audit_records WHERE uid = $1)"

MakeWorkbench = Callable[[], Awaitable["Workbench"]]


class Workbench:
    """Starts operators that serve one namespace, under the shipped ServiceAccount and the service role."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        kubeconfig: Path,
        namespace: str,
        owner_url: str,
        database_url: str,
        directory: Path,
        shared: OperatorProcess | None = None,
    ) -> None:
        """``kubeconfig`` has the shipped ServiceAccount (see ``shipped_account``).

        ``shared`` is an operator of this namespace and database that others use too, and that they stop.
        """
        self.cluster = cluster
        self.namespace = namespace
        self.owner_url = owner_url
        self.database_url = database_url
        self.directory = directory
        self.kubeconfig = kubeconfig
        self._shared = shared
        self._operators: list[OperatorProcess] = []
        self._connection: Any = None

    def start_operator(
        self,
        *,
        wait: bool = True,
        kubeconfig: Path | None = None,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> OperatorProcess:
        """Start an operator with settings by their names without the prefix, and wait until it is ready.

        `kubeconfig` and `database_url` take the place of those of the workbench. `environment` has variables
        that are no settings of the program, by their full names.
        """
        operator = OperatorProcess(
            kubeconfig or self.kubeconfig,
            database_url or self.database_url,
            self.directory / f"operator-{len(self._operators)}",
            {
                "DATASTORAGE_NAMESPACES": self.namespace,
                **{f"DATASTORAGE_{name}": str(value) for name, value in settings.items()},
                **(environment or {}),
            },
        )
        self._operators.append(operator)
        operator.start()
        if wait:
            operator.wait_ready()
        return operator

    def running_operator(self) -> OperatorProcess:
        """Return the shared operator or that which was started first, starting it if there is none."""
        if self._shared is not None:
            return self._shared
        return self._operators[0] if self._operators else self.start_operator()

    def lease_name(self, *, shard: int = 0, shards: int = 1) -> str:
        """Return the name of a shard's Lease, where operators serve this namespace alone."""
        served = hashlib.sha256(self.namespace.encode()).hexdigest()[:8]
        return f"datastorage-shard-{shard}-of-{shards}-in-{served}"

    def opt_out_of_the_guard(self) -> None:
        """Switch the deletion guard off in this namespace, as if it were not installed."""
        label = "datastorage.kubernaut.io/deletion-guard=disabled"
        self.cluster.kubectl("label", "namespace", self.namespace, label, "--overwrite")

    async def close(self) -> None:
        """Stop all operators that were started here, at the same time: a stop waits for what is under way."""
        stops = (asyncio.to_thread(operator.close) for operator in self._operators)
        ends = await asyncio.gather(*stops, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
        for end in ends:
            value_or_raise(end)

    async def has_row(self, uid: str) -> bool:
        """Return whether the archive has an AuditRecord of this uid. One connection is kept open for this."""
        if self._connection is None:
            self._connection = await asyncpg.connect(self.database_url)
        return bool(await self._connection.fetchval(_HAS_ROW, uid))

    def datastorage(self, *arguments: str) -> str:
        """Run a command of the command line against this database and cluster; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "datastorage", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=as_in_image(os.environ)
            | {
                "KUBECONFIG": str(self.kubeconfig),
                "DATASTORAGE_DATABASE_URL": self.database_url,
                "DATASTORAGE_NAMESPACES": self.namespace,
            },
        )
        return done.stdout

    def api_writes(self, plural: str) -> Counter[str]:
        """Return how many successful writes of a resource the API server has served so far, by verb."""
        writes: Counter[str] = Counter()
        for match in _WRITE.finditer(self.cluster.metrics()):
            labels = dict(_LABEL.findall(match["labels"]))
            # Scope "resource": single objects, not the collections that a namespace's deletion asks for.
            if labels["resource"] == plural and labels["scope"] == "resource" and labels["code"][0] == "2":
                writes[f"{labels['verb']} {labels['subresource']}".strip()] += int(float(match["value"]))
        return writes

    @asynccontextmanager
    async def no_rows_accepted(
        self, table: Table = Table.AUDIT_RECORDS, *, mode: str = "SHARE"
    ) -> AsyncIterator[None]:
        """Make every INSERT into the table wait until the end of the context.

        With the mode ``ACCESS EXCLUSIVE`` every other statement on the table waits as well.
        """
        connection = await asyncpg.connect(self.owner_url)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE datastorage.{table} IN {mode} MODE")
                yield
        finally:
            await connection.close()

    async def execute_as_owner(self, statement: str) -> None:
        """Run a statement as the owner of the schema, to break what the service can't.

        It is run again while it collides with what the operator does to the same table at the same moment.
        """
        connection = await asyncpg.connect(self.owner_url)

        async def ended() -> bool:
            try:
                await connection.execute(statement)
            except asyncpg.DeadlockDetectedError:
                return False
            except asyncpg.InternalServerError as error:
                if "tuple concurrently updated" not in str(error):
                    raise
                return False
            return True

        try:
            await until(ended, what="the owner's statement meets no other")
        finally:
            await connection.close()


@asynccontextmanager
async def cluster_proxy(bench: Workbench) -> AsyncIterator[tuple[FreezableProxy, Path]]:
    """Run a proxy before the API server that can be frozen; yield it and a kubeconfig that uses it."""
    original = json.loads(bench.kubeconfig.read_text())
    async with FreezableProxy(original["clusters"][0]["cluster"]["server"]) as proxy:
        original["clusters"][0]["cluster"]["server"] = proxy.url
        bench.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig", dir=bench.directory) as file:
            json.dump(original, file)
            file.flush()
            yield proxy, Path(file.name)


def shipped_account(cluster: Cluster) -> Path:
    """Return a kubeconfig of the ServiceAccount under which the product's manifests run the operator."""
    return cluster.service_account_kubeconfig("datastorage-system", "datastorage")


async def answers(operator: OperatorProcess) -> bool:
    """Return whether /health answers 200 now. Raises ComponentError when the operator has ended."""
    operator.check()
    return (await asyncio.to_thread(operator.ask, "/health"))[0] == 200


async def has_ended(operator: OperatorProcess) -> bool:
    """Return whether the process has ended."""
    return operator.exit_code is not None
