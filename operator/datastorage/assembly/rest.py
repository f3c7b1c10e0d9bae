"""Builds the REST API of a replica: what its routes need, and the routes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter

from datastorage.api.authentication import Authentication
from datastorage.api.authorization import Authorization
from datastorage.api.export import ExportDesk, ExportLimits, export_router
from datastorage.api.guard import KubernetesGuard, OpenGuard
from datastorage.api.listening import is_loopback
from datastorage.api.overviews import overview_router
from datastorage.api.query import Desk, query_router
from datastorage.api.store import Entrance, store_router
from datastorage.assembly.queries import queries_of
from datastorage.assembly.replica import Replica
from datastorage.assembly.shard import Shard, build_writer
from datastorage.assembly.store import open_database
from datastorage.errors import ConfigurationError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.kube.namespaces import Namespaces
from datastorage.kube.objects import ObjectClient
from datastorage.kube.transport import Transport
from datastorage.pipeline.fallback import Fallback
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.submissions import Submissions
from datastorage.query.export import ArchiveExports
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.settings import Settings
from datastorage.storage.export import ExportReader
from datastorage.storage.schema import ARCHIVE

# Questions have a pool of their own, so that many of them at once do not keep the records waiting.
_READ_POOL_SIZE: Final = 5


@dataclass(frozen=True)
class Rest:
    """The API of a replica."""

    submissions: Submissions
    routers: list[APIRouter]


@asynccontextmanager
async def open_rest(replica: Replica, shards: Sequence[Shard]) -> AsyncIterator[Rest]:
    """Build the API, whose records go into the intake of a shard. Close its connections in the end."""
    settings, store = replica.settings, replica.store
    guard = build_guard(settings, replica.transport)
    shard = next(shard for shard in shards if AUDIT_RECORD in shard.selection.kinds)
    groups = Groups(
        writer=build_writer(store, on_pending=replica.request_backfill),
        rehearse=store.archive.rehearse,
        breaker=shard.tables,
    )
    submissions = Submissions(intake=shard.intake, groups=groups, breakers=(replica.postgres, shard.tables))
    async with AsyncExitStack() as stack:
        database = open_database(
            settings, "database_url", ARCHIVE, stack, writable=False, pool_size=_READ_POOL_SIZE
        )
        # Exports have connections of their own, too. They lead to the primary: a standby does not know which
        # transactions may still add rows.
        exports = open_database(
            settings, "database_url", ARCHIVE, stack, writable=True, pool_size=2 * ExportLimits().at_once
        )
        stack.push_async_callback(guard.close)
        archive = queries_of(store, database)
        entrance = Entrance(
            guard=guard,
            submissions=submissions,
            archive=archive,
            with_texts=store.vectors is not None,
            fallback=_build_fallback(replica),
        )
        desk = Desk(guard, archive)
        routers = [
            store_router(entrance),
            query_router(desk),
            overview_router(desk, archive),
            export_router(ExportDesk(guard, ArchiveExports(ExportReader(exports)))),
        ]
        yield Rest(submissions, routers)


def _build_fallback(replica: Replica) -> Fallback | None:
    settings = replica.settings
    if settings.api.fallback == "none":
        return None
    return Fallback(ObjectClient(replica.transport), replica.created_objects, namespaces=settings.namespaces)


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
    return KubernetesGuard(
        Authentication(reviews, [settings.api.audience]), Authorization(reviews), Namespaces(transport)
    )
