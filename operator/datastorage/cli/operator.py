"""The commands that run the operator, and those that prepare and describe it."""

import asyncio
import logging
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import SecretStr

from datastorage import __version__
from datastorage.cli.output import print_table
from datastorage.cli.waiting import when_it_serves
from datastorage.errors import ConfigurationError, DataStorageError
from datastorage.logs import configure_logging
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.resources.crd import render_crds, write_crds
from datastorage.resources.selection import Selection
from datastorage.settings import Settings, ignored_variables, load_settings, settings_table

if TYPE_CHECKING:
    from datastorage.pipeline.garbagecollector import Plan  # loads the cluster's client

_log = logging.getLogger(__name__)

_DEFAULT_DATA_DIR: Final = Path.home() / ".local/share/kubernaut-datastorage/postgres"

# The loop uses half of them for lookups. Five dependencies are asked every 2 s or less often.
_LOOKUP_THREADS: Final = 128

commands = typer.Typer()


@commands.command()
def run(
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded", help="Bring an own PostgreSQL and Redis, to try it out. Not for production."
        ),
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Where --embedded keeps its data.", envvar="DATASTORAGE_EMBEDDED_DIR")
    ] = _DEFAULT_DATA_DIR,
) -> None:
    """Run the operator until it is told to stop (SIGTERM, Ctrl-C).

    It reads the cluster from KUBECONFIG or from its pod, and everything else from DATASTORAGE_ settings
    (see `datastorage settings`). It needs the schema that `datastorage migrate` makes.
    """
    settings = load_settings()
    configure_logging(settings.log.level, settings.log.format)
    for name in ignored_variables():
        _log.warning(
            "%s is ignored: Kubernetes has set it for a Service; set it in the pod, or "
            "enableServiceLinks: false there",
            name,
        )
    if embedded:
        _run_embedded(settings, data_dir)
    else:
        _run(settings)


def _run_embedded(settings: Settings, directory: Path) -> None:
    from datastorage.embedded import (  # noqa: PLC0415  # an extra
        create_service_role,
        start_embedded_postgres,
        start_embedded_redis,
    )
    from datastorage.storage.migrate import migrate_all  # noqa: PLC0415  # loads Alembic

    with ExitStack() as stack:
        postgres = start_embedded_postgres(directory)
        stack.callback(postgres.stop)
        own = {
            "database_url": SecretStr(postgres.service_url),
            "database_owner_url": SecretStr(postgres.owner_url),
        }
        redis = start_embedded_redis() if settings.redis_url is None else None
        if redis is not None:
            stack.callback(redis.stop)
            own["redis_url"] = SecretStr(redis.url)
        settings = settings.replaced(own)
        migrate_all(settings)
        asyncio.run(create_service_role(postgres.owner_url))
        _run(settings)


def _run(settings: Settings) -> None:
    # The lookup of a name that hangs occupies a thread of the loop, long after whoever asked has given up.
    # Those of one dependency must not take all threads from the others. Read at the first lookup.
    os.environ.setdefault("UV_THREADPOOL_SIZE", str(_LOOKUP_THREADS))
    import uvloop  # noqa: PLC0415  # only the service pays for it

    from datastorage.runtime import run as runtime  # noqa: PLC0415  # loads Kopf

    make_room_for_deep_json()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # The loop is not closed, and leftover tasks are not cancelled: the one waits for lookups that hang, and
    # Kopf's tasks may never end when they are cancelled all at once. They go with the process.
    loop.run_until_complete(runtime.run(settings))


@commands.command()
def migrate(
    wait: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=3600.0,
            metavar="SECONDS",
            help="How long to wait for a server that can't be reached yet.",
        ),
    ] = 0.0,
) -> None:
    """Bring the database schemas up to date, as the owner role (DATASTORAGE_DATABASE_OWNER_URL).

    The vectors' schema is made beside the archive's, or on the server that DATASTORAGE_VECTOR_DATABASE_URL
    names; with the embedding provider `none` it is left out. May be run any number of times, and from several
    replicas at once.
    """
    from datastorage.storage.migrate import migrate_all  # noqa: PLC0415  # loads Alembic

    settings = load_settings()
    for chain, before, after in when_it_serves(lambda: migrate_all(settings), wait):
        if before == after:
            typer.echo(f"{chain}: up to date (version {after})")
        else:
            typer.echo(f"{chain}: migrated from {before or 'nothing'} to version {after}")


@commands.command()
def crds(
    output_dir: Annotated[Path, typer.Option(help="Where to write the files.")] = Path("crds"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the files differ from the models.")
    ] = False,
) -> None:
    """Write the CustomResourceDefinitions, generated from the models."""
    if not check:
        for path in write_crds(output_dir):
            typer.echo(path)
        return
    stale = [
        name
        for name, text in render_crds().items()
        if not (output_dir / name).is_file() or (output_dir / name).read_text(encoding="utf-8") != text
    ]
    if stale:
        raise DataStorageError(f"not as generated: {', '.join(stale)}; run 'datastorage crds'")
    typer.echo("up to date")


@commands.command()
def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted and when; delete nothing.")
    ] = False,
) -> None:
    """Show what the garbage collector has before it. The collecting itself is part of `datastorage run`."""
    if not dry_run:
        raise ConfigurationError(
            "the garbage collector runs inside 'datastorage run'; use --dry-run to look ahead"
        )
    asyncio.run(_print_gc_plan(load_settings()))


async def _print_gc_plan(settings: Settings) -> None:
    from datastorage.assembly.replica import open_replica  # noqa: PLC0415  # loads the cluster's client
    from datastorage.assembly.shard import open_shard  # noqa: PLC0415

    async with open_replica(settings, writable=False) as replica:
        await replica.store.database.check_schema_version()
        # The times of expiry were counted by this clock, and the collector goes by it.
        now = datetime.fromtimestamp(await replica.store.archive.time(), UTC)
        selection = Selection(settings.namespaces)
        async with open_shard(replica, selection, on_watch_started=lambda: None) as shard:
            rows = [_planned(plan, now) async for plan in shard.collector.plan()]
    if rows:
        print_table(("KIND", "NAMESPACE", "NAME", "DELETED AT", "IN", "IN ARCHIVE", "NOTE"), rows)
    typer.echo(f"{len(rows):,} stored objects in the cluster")


def _planned(plan: "Plan", now: datetime) -> tuple[str, ...]:
    due, ref = datetime.fromtimestamp(plan.expiry.due, UTC), plan.expiry.ref
    seconds = max(0, round((due - now).total_seconds()))
    said = "legal hold: stays" if plan.held else "" if plan.confirmed else "no row: stays, stored again"
    return (
        ref.kind.kind, ref.namespace, ref.name, due.isoformat(timespec="seconds"), f"{seconds}s",
        "yes" if plan.confirmed else "NO", said,
    )  # fmt: skip


@commands.command()
def settings() -> None:
    """Print all settings as a Markdown table."""
    typer.echo(settings_table(), nl=False)


@commands.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
