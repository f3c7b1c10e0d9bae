"""A steady load, and a check that everything that was accepted is stored."""

import asyncio
from typing import Any, Self

import aiohttp

from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import Workbench
from harness.archive import rows, uids
from harness.bulk import BulkClient, RequestError
from harness.manifests import audit_record


class Load:
    """Creates records at a steady pace in the background and remembers the uid of each one accepted."""

    def __init__(
        self, client: BulkClient, namespace: str, *, per_second: float, distinct: int = 50, **spec: Any
    ) -> None:
        """``distinct`` is the number of different texts of the records; ``spec`` has further fields."""
        self._distinct = distinct
        self._client = client
        self._namespace = namespace
        self._spec = spec
        self._pause = 1 / per_second
        self._stop = asyncio.Event()
        self.accepted: list[str] = []
        self._unanswered: list[str] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
        # The answer was lost with its connection: the cluster shows whether the record was created.
        for name in self._unanswered:
            body = await self._client.get(AUDIT_RECORD, self._namespace, name)
            if body is not None:
                self.accepted.append(body["metadata"]["uid"])

    async def _run(self) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            try:
                message = f"event {'x' * (n % self._distinct)} was seen"
                record = audit_record(f"load-{n}", message=message, **self._spec)
                body = await self._client.create(AUDIT_RECORD, self._namespace, record)
            except RequestError:
                pass  # not accepted: nobody was promised anything
            except (aiohttp.ClientError, OSError):
                self._unanswered.append(f"load-{n}")
            else:
                self.accepted.append(body["metadata"]["uid"])
            await asyncio.sleep(self._pause)


async def all_stored(client: BulkClient, workbench: Workbench, accepted: list[str]) -> Any:
    """Return whether every accepted record has its row, and its status says Stored."""
    # The API server looks for the others: to read all at each look would slow down storing them.
    if await client.list(AUDIT_RECORD, workbench.namespace, field_selector="status.phase!=Stored"):
        return False
    return set(uids(await rows(workbench.database_url, workbench.namespace))) == set(accepted)


async def check_deletions(client: BulkClient, workbench: Workbench, unstored: list[str]) -> None:
    """Note each object whose row is missing at the moment when its deletion is seen."""
    async for event, body in client.watch(AUDIT_RECORD, workbench.namespace):
        if event == "DELETED" and not await workbench.has_row(body["metadata"]["uid"]):
            unstored.append(body["metadata"]["name"])
