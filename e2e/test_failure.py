"""A component that fails ends the operator in order: what it has taken in is stored before."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from datastorage.assembly.replica import open_replica
from datastorage.assembly.rest import open_rest
from datastorage.assembly.shard import Shard, open_shard
from datastorage.errors import DataStorageError
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.selection import Selection
from datastorage.runtime.run import Operator
from datastorage.settings import Settings
from e2e.workbench import Workbench
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.polling import eventually
from harness.ports import free_port

LOST = "Lost: deleted in the cluster before it could be stored"


@pytest.fixture(autouse=True)
def _unguarded(workbench: Workbench) -> None:
    """Let records be deleted that are not stored yet.

    The API server's admission sees the label a moment later, so this comes before the operator starts.
    """
    workbench.opt_out_of_the_guard()


class Failing:
    """A component that fails when a test says so. No real one can be made to fail."""

    def __init__(self, component: Any) -> None:
        self._component = component
        self.fails = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._component, name)

    async def run(self) -> None:
        running = asyncio.create_task(self._component.run())
        await self.fails.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise RuntimeError("broken")


def _component(name: str) -> Callable[[Shard], tuple[Shard, Any]]:
    """Return what makes the component in a field of the shard fail on request."""

    def breaks(shard: Shard) -> tuple[Shard, Any]:
        failing: Any = Failing(getattr(shard, name))
        return replace(shard, **{name: failing}), failing

    return breaks


def _watch(shard: Shard) -> tuple[Shard, Any]:
    failing: Any = Failing(shard.watches[AUDIT_RECORD])
    return replace(shard, watches={**shard.watches, AUDIT_RECORD: failing}), failing


@dataclass
class Running:
    """An operator in this process, one of whose components is about to fail."""

    shard: Shard
    failing: Failing
    operator: asyncio.Task[None]
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def fail(self) -> None:
        """Let the component fail, and wait until the operator has noticed."""
        self.failing.fails.set()
        await eventually(lambda: self.stop.is_set() or self.operator.done())


@asynccontextmanager
async def running(
    settings: Settings, breaks: Callable[[Shard], tuple[Shard, Any]], *, shutdown_seconds: int
) -> AsyncIterator[Running]:
    ports = {"api_port": free_port(), "metrics_port": free_port(), "listen_address": "127.0.0.1"}
    settings = settings.replaced({**ports, "shutdown_seconds": shutdown_seconds})
    stop, selection = asyncio.Event(), Selection(settings.namespaces, kinds=(AUDIT_RECORD,))
    async with (
        open_replica(settings) as replica,
        open_shard(replica, selection, on_watch_started=lambda: None) as opened,
        open_rest(replica, [opened]) as rest,
    ):
        shard, failing = breaks(opened)
        operator = asyncio.create_task(Operator(replica, [shard], None, rest, stop).run())
        try:
            await eventually(lambda: shard.monitor.problem is None)
            yield Running(shard, failing, operator, stop)
        finally:
            operator.cancel()
            await asyncio.gather(operator, return_exceptions=True)


async def _leave_a_last_copy(workbench: Workbench, client: BulkClient, shard: Shard) -> str:
    """Delete a record that is not stored yet, and return its uid once only the operator has it."""
    body = await client.create(AUDIT_RECORD, workbench.namespace, audit_record("gone"))
    await client.delete(AUDIT_RECORD, workbench.namespace, "gone")
    await eventually(lambda: bool(shard.register.last_copies))
    return str(body["metadata"]["uid"])


@pytest.mark.parametrize(
    ("breaks", "name"),
    [
        (_component("status_writer"), "status-writer-auditrecords"),
        (_component("collector"), "garbage-collector-auditrecords"),
        (_watch, "watch-auditrecords"),
        (_component("aside"), "aside-auditrecords"),
    ],
)
async def test_last_copies_are_stored_whichever_other_component_fails(
    workbench: Workbench,
    client: BulkClient,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Shard], tuple[Shard, Any]],
    name: str,
) -> None:
    async with running(settings, breaks, shutdown_seconds=60) as operator:
        async with workbench.no_rows_accepted():
            uid = await _leave_a_last_copy(workbench, client, operator.shard)
            await operator.fail()
        with pytest.raises(DataStorageError, match=f"{name} ended unexpectedly: RuntimeError: broken"):
            await operator.operator
        assert operator.shard.register.last_copies == []
    assert await workbench.has_row(uid)
    assert LOST not in caplog.text


async def test_last_copies_are_logged_when_the_committer_fails(
    workbench: Workbench, client: BulkClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop does not wait for what nobody does any more: it may take longer than the test."""
    async with running(settings, _component("committer"), shutdown_seconds=600) as operator:
        async with workbench.no_rows_accepted():
            uid = await _leave_a_last_copy(workbench, client, operator.shard)
            await operator.fail()
        with pytest.raises(
            DataStorageError, match=r"committer-\d-auditrecords ended unexpectedly: RuntimeError: broken"
        ):
            await operator.operator
    [line] = [entry for entry in caplog.records if entry.getMessage() == LOST]
    assert vars(line)["object_uid"] == uid


async def test_last_copies_are_logged_when_postgresql_takes_none_until_the_end_of_the_stop(
    workbench: Workbench, client: BulkClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running(settings, _component("collector"), shutdown_seconds=1) as operator,
        workbench.no_rows_accepted(),
    ):
        await _leave_a_last_copy(workbench, client, operator.shard)
        await operator.fail()
        with pytest.raises(DataStorageError, match="garbage-collector-auditrecords ended unexpectedly"):
            await operator.operator
        assert caplog.text.count(LOST) == 1
