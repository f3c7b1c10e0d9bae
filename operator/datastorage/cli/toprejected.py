"""The latest rejected records, for the view of the replicas: asked beside it, so that it never waits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from datastorage.errors import DataStorageError
from datastorage.records.times import rfc3339

# The view has room for a few.
_MOST: Final = 3
_AGAIN_SECONDS: Final = 10.0
# A first look waits for so long; PostgreSQL may be what is away.
_FIRST_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A record that PostgreSQL can't hold."""

    rejected_at: str
    kind: str
    name: str
    """With the namespace."""
    reason: str


@dataclass(frozen=True, slots=True)
class RejectedLook:
    """The latest rejected records, or why they are not known."""

    records: Sequence[RejectedLine] = ()
    trouble: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return them for programs."""
        records = [
            {"rejectedAt": line.rejected_at, "kind": line.kind, "record": line.name, "reason": line.reason}
            for line in self.records
        ]
        return {"records": records, "trouble": self.trouble}


class LatestRejected:
    """What the archive said last."""

    def __init__(self) -> None:
        self._look = RejectedLook(trouble="the archive has not answered yet")
        self._known = asyncio.Event()

    def set(self, look: RejectedLook) -> None:
        """Replace what was said before."""
        self._look = look
        self._known.set()

    async def first(self) -> RejectedLook:
        """Return what is known after some seconds at most."""
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await self._known.wait()
        except TimeoutError:
            pass
        return self._look

    @property
    def now(self) -> RejectedLook:
        """What is known now."""
        return self._look


@asynccontextmanager
async def following_rejected() -> AsyncIterator[LatestRejected]:
    """Ask the archive of the settings now and then. Raises ConfigurationError for a wrong setting."""
    # The settings and the driver take long to load, and only this part needs them.
    from datastorage.settings import load_settings  # noqa: PLC0415  # as above

    latest = LatestRejected()
    task = asyncio.create_task(_follow(load_settings(), latest))
    try:
        yield latest
    finally:
        task.cancel()
        [end] = await asyncio.gather(task, return_exceptions=True)
    if isinstance(end, Exception):  # a fault of this program: what it could not ask is not to be hidden
        raise end


async def _follow(settings: Any, latest: LatestRejected) -> None:
    from datastorage.assembly.commands import open_rejected  # noqa: PLC0415  # as above
    from datastorage.resources.reading.registry import kind_of  # noqa: PLC0415  # as above
    from datastorage.storage.rejected import RejectedCriteria  # noqa: PLC0415  # as above

    while True:
        try:
            async with open_rejected(settings) as table:
                while True:
                    found = await table.list(RejectedCriteria(), after=None, limit=_MOST)
                    lines = [
                        RejectedLine(
                            rfc3339(record.rejected_at, "seconds"),
                            kind_of(record.table).kind,
                            f"{record.namespace}/{record.name}",
                            record.reason,
                        )
                        for record in found
                    ]
                    latest.set(RejectedLook(lines))
                    await asyncio.sleep(_AGAIN_SECONDS)
        except DataStorageError as error:
            latest.set(RejectedLook(trouble=str(error)))
        await asyncio.sleep(_AGAIN_SECONDS)
