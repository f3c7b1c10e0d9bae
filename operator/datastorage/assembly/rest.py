"""Builds the REST API of a replica: what its routes need, and the routes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import APIRouter

from datastorage.api.allowances import AllowanceLimits, Allowances
from datastorage.api.authentication import Authentication
from datastorage.api.authorization import Authorization
from datastorage.api.export import ExportDesk, ExportLimits, export_router
from datastorage.api.guard import KubernetesGuard, OpenGuard
from datastorage.api.listening import is_loopback
from datastorage.api.overviews import overview_router
from datastorage.api.query import Desk, query_router
from datastorage.api.store import Entrance, store_router
from datastorage.assembly.databases import open_database
from datastorage.assembly.replica import Replica
from datastorage.assembly.searching import queries_of
from datastorage.assembly.shard import Shard, build_writer
from datastorage.errors import ConfigurationError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.kube.namespaces import Namespaces
from datastorage.kube.objects import ObjectClient
from datastorage.kube.transport import Transport
from datastorage.pipeline.fallback import Fallback
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.submissions import Submissions
from datastorage.query.export import ArchiveExports
from datastorage.query.interface import ScopedArchive
from datastorage.query.standby import Standby
from datastorage.query.standbyqueries import StandbyQueries
from datastorage.resilience.cancellation import end_tasks
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.settings import Settings
from datastorage.storage.export import ExportReader
from datastorage.storage.readonly import READING
from datastorage.storage.replication import state_of
from datastorage.storage.schema import ARCHIVE, STANDBY
from datastorage.thesaurus.loading import load_groups

# Questions have a pool of their own, so that many of them at once do not keep the records waiting. Two
# searches fill it, each over three connections.
READ_POOL_SIZE: Final = 6


@dataclass(frozen=True)
class Rest:
    """The API of a replica."""

    submissions: Submissions
    routers: list[APIRouter]
    standby: Standby | None = None
    """The standby that answers questions; None if none is named."""
    tasks: tuple[asyncio.Task[Any], ...] = ()
    """None of them may end before the API is closed."""


@asynccontextmanager
async def open_rest(replica: Replica, shards: Sequence[Shard]) -> AsyncIterator[Rest]:
    """Build the API, whose records go into the intake of a shard. Close its connections in the end."""
    settings, store = replica.settings, replica.store
    synonyms = load_groups(settings.thesaurus)
    guard = build_guard(settings, replica.transport)
    shard = next(shard for shard in shards if AUDIT_RECORD in shard.selection.kinds)
    groups = Groups(
        writer=build_writer(store, on_pending=replica.request_backfill, traces=replica.traces),
        rehearse=store.archive.rehearse,
        breaker=shard.tables,
        traces=replica.traces,
    )
    submissions = Submissions(
        intake=shard.intake,
        groups=groups,
        breakers=(replica.postgres, shard.tables),
        traces=replica.traces,
    )
    async with AsyncExitStack() as stack:
        # Of several hosts, the first may be a standby that lacks what was just stored. So the questions go to
        # the one that accepts writes, too.
        database = open_database(
            settings, "database_url", ARCHIVE, stack, writable=True, pool_size=READ_POOL_SIZE,
            session_settings=READING,
        )  # fmt: skip
        # Exports have connections of their own, too. They lead to the primary: a standby does not know which
        # transactions may still add rows.
        exports = open_database(
            settings, "database_url", ARCHIVE, stack, writable=True, pool_size=2 * ExportLimits().at_once
        )
        stack.push_async_callback(guard.close)
        primary = queries_of(store, database, synonyms=synonyms)
        entrance = Entrance(
            guard=guard,
            submissions=submissions,
            archive=primary,  # a standby may not have the receipt of an earlier request yet
            with_texts=store.vectors is not None,
            fallback=_build_fallback(replica),
        )
        standby = _open_standby(settings, stack)
        archive: ScopedArchive = primary
        tasks: tuple[asyncio.Task[Any], ...] = ()
        if standby is not None:
            copy = open_database(
                settings, "read_database_url", STANDBY, stack, writable=False, pool_size=READ_POOL_SIZE,
                session_settings=READING,
            )  # fmt: skip
            archive = StandbyQueries(queries_of(store, copy, synonyms=synonyms), primary, standby)
            # It begins before PostgreSQL has answered: a standby may be there when the primary is not.
            tasks = (asyncio.create_task(standby.run(), name="standby"),)
            stack.push_async_callback(end_tasks, tasks)
        desk = Desk(guard, archive)
        routers = [
            store_router(entrance),
            query_router(desk),
            overview_router(desk),
            export_router(ExportDesk(guard, ArchiveExports(ExportReader(exports)))),
        ]
        yield Rest(submissions, routers, standby, tasks)


def _open_standby(settings: Settings, stack: AsyncExitStack) -> Standby | None:
    """Return the state of the standby that the settings name, or None if they name none."""
    if settings.read.database_url is None:
        return None
    # Each has a connection of its own: waiting behind questions would look like a server that is away.
    primary = open_database(settings, "database_url", ARCHIVE, stack, writable=True, pool_size=1)
    copy = open_database(settings, "read_database_url", STANDBY, stack, writable=False, pool_size=1)
    standby = Standby(partial(state_of, primary), partial(state_of, copy))
    stack.push_async_callback(standby.close)
    return standby


def _build_fallback(replica: Replica) -> Fallback | None:
    settings = replica.settings
    if settings.api.fallback == "none":
        return None
    return Fallback(
        ObjectClient(replica.transport),
        replica.created_objects,
        namespaces=settings.namespaces,
        traces=replica.traces,
    )


def build_guard(settings: Settings, transport: Transport) -> KubernetesGuard | OpenGuard:
    """Return what decides about callers. Raises ConfigurationError for an open API that others can reach."""
    if settings.api.authentication == "none":
        if not is_loopback(settings.listen_address):
            raise ConfigurationError(
                "DATASTORAGE_API_AUTHENTICATION is none, so that everybody who reaches the API may do "
                "everything: set DATASTORAGE_LISTEN_ADDRESS to 127.0.0.1, or authentication to kubernetes"
            )
        return OpenGuard()
    reviews = AccessReviews(transport)
    limits = AllowanceLimits(tokens_per_second=settings.api.requests_per_second, burst=settings.api.burst)
    return KubernetesGuard(
        Authentication(reviews, [settings.api.audience]),
        Authorization(reviews),
        Namespaces(transport),
        Allowances(limits),
    )
