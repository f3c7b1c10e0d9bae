"""The REST API over the real way to a real database, without a cluster: what is sent becomes rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from datastorage.api.guard import OpenGuard
from datastorage.assembly.queries import build_queries
from datastorage.errors import NotAllowedError
from datastorage.metrics import Dependency
from datastorage.pipeline import groups, submissions
from datastorage.pipeline.batchwriter import RowWriter
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.setaside import Pace as AsidePace
from datastorage.pipeline.submissions import Submissions
from datastorage.records.caller import Caller
from datastorage.resilience.breaker import Breaker
from datastorage.storage.connection.database import Database
from datastorage.storage.rejected import RejectedRecords
from datastorage.storage.trial import Trial
from datastorage.storage.write import Archive
from tests.support.apiserved import Served, TokenGuard, served
from tests.support.ping import ping
from tests.support.storing import Storing

FORBIDDEN = "kube-system"


class OneForbidden(TokenGuard):
    """Gives the right to store in all namespaces but one."""

    async def check_store(self, caller: Caller, namespace: str) -> None:
        if namespace == FORBIDDEN:
            raise NotAllowedError(f"{caller.username} has no right in namespace {namespace}")


@dataclass
class StoredApi:
    """The API, and the pipeline behind it."""

    api: Served
    storing: Storing
    owner: Any

    async def post(self, path: str, content: bytes, media: str = "application/json") -> Any:
        """Send a request that stores."""
        return await self.api.send("POST", path, content, {"Content-Type": media})

    async def counts(self) -> tuple[int, int, int]:
        """Return the number of rows, of claims, and of rejected records."""
        names = ("audit_records", "claims", "rejected_objects")
        statements = [f"SELECT count(*) FROM datastorage.{name}" for name in names]
        found = [await self.owner.fetchval(each) for each in statements]
        return found[0], found[1], found[2]


@asynccontextmanager
async def stored_api(
    database: Database,
    owner: Any,
    *,
    pace: submissions.Pace = submissions.Pace(),
    group_pace: groups.Pace = groups.Pace(),
    guard: OpenGuard | None = None,
    receipts: Database | None = None,
) -> AsyncIterator[StoredApi]:
    """Serve the API over a database until the end of the block.

    ``receipts`` is another way to it, for the receipts of earlier requests.
    """
    archive, writer = Archive(database), RowWriter(Archive(database))
    breaker = Breaker(Dependency.POSTGRES, partial(ping, database), trial=Trial(database).write)
    quick = AsidePace(first_pause_seconds=0.02, max_pause_seconds=0.1)
    storing = Storing(writer, breaker, RejectedRecords(database), pace=quick)
    entrance = Submissions(
        intake=storing.entrance.intake,
        groups=Groups(writer=writer, rehearse=archive.rehearse, breaker=breaker, pace=group_pace),
        breakers=(breaker,),
        pace=pace,
    )
    entrance.open()
    queries = build_queries(database)
    async with (
        storing.running(),
        served(
            queries,
            submissions=entrance,
            receipts=queries if receipts is None else build_queries(receipts),
            guard=guard or OneForbidden(),
        ) as api,
    ):
        yield StoredApi(api, storing, owner)
