"""The command that runs the operator."""

import asyncio
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from pydantic import SecretStr

from datastorage.logs import configure_logging
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.runtime import run as runtime
from datastorage.settings import (
    DEFAULT_EMBEDDED_DIR,
    EMBEDDED_DIR_VARIABLE,
    Settings,
    ignored_variables,
    load_settings,
)

_log = logging.getLogger(__name__)

_DEFAULT_DATA_DIR: Final = Path(DEFAULT_EMBEDDED_DIR).expanduser()

# Threads of the event loop. It looks up hosts in half of them at most, and five dependencies are probed every
# 2 s or less often.
_LOOKUP_THREADS: Final = 128

commands = typer.Typer()


@commands.command()
def run(
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded", help="Start its own PostgreSQL and Redis, for a trial. Not for production."
        ),
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Directory for the data of --embedded.", envvar=EMBEDDED_DIR_VARIABLE)
    ] = _DEFAULT_DATA_DIR,
) -> None:
    """Run the operator until it gets SIGTERM or Ctrl-C.

    It finds the cluster by KUBECONFIG, or from inside its pod; everything else
    comes from settings (see `datastorage settings`). It needs the schemas that
    `datastorage migrate` creates; with --embedded it creates them itself.

    Examples:
        datastorage run --embedded

        DATASTORAGE_DATABASE_URL=postgresql://service:secret@db/audit datastorage run
    """
    settings = load_settings()
    configure_logging(settings.log.level, settings.log.format)
    for name in ignored_variables():
        _log.warning(
            "%s is ignored: Kubernetes has set it for a Service; set it in the pod, or set "
            "enableServiceLinks: false there",
            name,
        )
    if embedded:
        _run_embedded(settings, data_dir)
    else:
        _run(settings)


def _run_embedded(settings: Settings, directory: Path) -> None:
    from datastorage.embeddedservers import (  # noqa: PLC0415  # an extra, which need not be installed
        create_service_role,
        start_embedded_postgres,
        start_embedded_redis,
    )
    from datastorage.storage.migrate import migrate_all  # noqa: PLC0415  # the service never loads Alembic

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
    # A host lookup that hangs occupies a thread of the loop long after its caller has given up. The lookups
    # for one dependency must not take all threads from the others. The loop reads the number at its first
    # lookup.
    os.environ.setdefault("UV_THREADPOOL_SIZE", str(_LOOKUP_THREADS))
    make_room_for_deep_json()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # The loop is not closed, and leftover tasks are not cancelled: closing waits for lookups that hang, and
    # Kopf's tasks may never end when they are cancelled all at once. Both end with the process.
    loop.run_until_complete(runtime.run(settings))
