"""The command that looks ahead at the objects which the garbage collector will delete."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from datastorage.assembly.replica import open_replica
from datastorage.assembly.shard import open_shard
from datastorage.cli.output import print_table
from datastorage.cli.times import duration
from datastorage.errors import ConfigurationError, NotServedError
from datastorage.pipeline.garbagecollector import GarbageCollector, Plan
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import KINDS, ResourceKind
from datastorage.resources.selection import Selection
from datastorage.settings import Settings, load_settings

commands = typer.Typer()


@commands.command()
def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the objects and the times; delete nothing.")
    ] = False,
) -> None:
    """Show which stored objects the operator will delete from the cluster, and
    when.

    The garbage collector, which deletes them, runs inside `datastorage run`. So
    this command needs --dry-run. It asks the cluster, by KUBECONFIG, and the
    archive, by DATASTORAGE_DATABASE_URL.

    Example:
        datastorage gc --dry-run
    """
    if not dry_run:
        raise ConfigurationError(
            "the garbage collector runs inside 'datastorage run'; use --dry-run to look ahead"
        )
    asyncio.run(_print_gc_plan(load_settings()))


async def _print_gc_plan(settings: Settings) -> None:
    async with open_replica(settings, writable=False) as replica:
        await replica.store.database.check_schema_version()
        # By the archive's clock, which the times of expiry count from; the collector uses it too.
        now = datetime.fromtimestamp(await replica.store.archive.time(), UTC)
        selection = Selection(settings.namespaces)
        async with open_shard(replica, selection, on_watch_started=lambda: None) as shard:
            rows, missing = await _plans(shard.collector, now)
    if rows:
        print_table(("KIND", "NAMESPACE", "NAME", "DELETED AT", "IN", "IN ARCHIVE", "NOTE"), rows)
    if missing != KINDS:
        typer.echo(f"stored objects in the cluster: {len(rows):,}")
    if missing:
        raise NotServedError(
            f"the cluster does not serve {' and '.join(kind.crd_name for kind in missing)}: install the "
            "definitions ('kubectl apply -k crds' in a checkout), or name the right cluster in KUBECONFIG"
        )


async def _plans(
    collector: GarbageCollector, now: datetime
) -> tuple[list[tuple[str, ...]], tuple[ResourceKind, ...]]:
    """Return a line for each stored object, and the kinds whose definitions are missing."""
    rows: list[tuple[str, ...]] = []
    missing: list[ResourceKind] = []
    for kind in KINDS:
        try:
            rows += [_planned(plan, now) async for plan in collector.plan(kind)]
        except NotServedError:
            missing.append(kind)
    return rows, tuple(missing)


def _planned(plan: Plan, now: datetime) -> tuple[str, ...]:
    due, ref = datetime.fromtimestamp(plan.expiry.due, UTC), plan.expiry.ref
    remark = "legal hold: stays" if plan.held else "" if plan.confirmed else "no row: stays, stored again"
    left = duration((due - now).total_seconds())
    return (
        ref.kind.kind, ref.namespace, ref.name, rfc3339(due, "seconds"), left,
        "yes" if plan.confirmed else "NO", remark,
    )  # fmt: skip
