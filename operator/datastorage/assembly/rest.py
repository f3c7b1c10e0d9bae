"""Builds the REST API of a replica: what its routes need, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter

from datastorage.api.bodies import parsed_plainly
from datastorage.api.guard import Guard, NoGuard
from datastorage.api.query import Desk, query_router
from datastorage.api.store import Entrance, store_router
from datastorage.assembly.queries import build_queries
from datastorage.assembly.replica import Replica
from datastorage.assembly.shard import Shard
from datastorage.pipeline.submissions import Submissions
from datastorage.secrets import origin_of
from datastorage.storage.connection.database import Database
from datastorage.storage.schema import ARCHIVE

# Questions have a pool of their own, so that many of them at once do not keep the records waiting.
_READ_POOL_SIZE: Final = 5


@dataclass(frozen=True)
class Rest:
    """The API of a replica."""

    submissions: Submissions
    routers: list[APIRouter]


@asynccontextmanager
async def open_rest(replica: Replica, shard: Shard) -> AsyncIterator[Rest]:
    """Build the API; its records go into the intake of ``shard``. Close its connections in the end."""
    settings, vectors = replica.settings, replica.store.vectors
    guard: Guard = NoGuard()
    database = Database(
        origin_of(settings, "database_url"),
        pool_size=_READ_POOL_SIZE,
        chain=ARCHIVE,
        writable=False,
        statement_cache=settings.database.statement_cache,
    )
    archive = build_queries(
        database,
        None if vectors is None else vectors.embedder,
        None if vectors is None or vectors.same_server else vectors.database,
    )
    submissions = Submissions(intake=shard.intake, breaker=replica.postgres)
    entrance = Entrance(
        guard=guard,
        submissions=submissions,
        archive=archive,
        parse=parsed_plainly,
        validate=lambda _: [],
        with_texts=vectors is not None,
    )
    try:
        yield Rest(submissions, [store_router(entrance), query_router(Desk(guard, archive))])
    finally:
        await database.close()
