"""The components of the pipeline between the intake and the status, with or without a real database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from datastorage.pipeline.batchcommit import BatchCommit, Rejected, Writer
from datastorage.pipeline.committer import Committer
from datastorage.pipeline.committer import Pace as BatchPace
from datastorage.pipeline.item import Outcome
from datastorage.pipeline.register import Register
from datastorage.pipeline.setaside import Aside, Pace
from datastorage.resilience.breaker import Breaker
from tests.support.entrance import Entrance
from tests.support.fakes import KeptUpdates

# Refused records are tried again at once.
QUICK = Pace(first_pause_seconds=0.001, max_pause_seconds=0.01)


class Storing:
    """The components as the operator runs them, with two of the committer's loops."""

    def __init__(
        self,
        writer: Writer,
        breaker: Breaker,
        rejected: Rejected | None = None,
        *,
        pace: Pace = QUICK,
        batching: BatchPace = BatchPace(),
        register: Register | None = None,
        max_bytes: int = 2**27,
    ) -> None:
        """Without ``rejected`` the writer keeps the rejected records too."""
        self.breaker = breaker
        self.register = register or Register()
        self._updates = KeptUpdates()
        self.entrance = Entrance(5000, max_bytes, register=self.register, statuses=self._updates)
        commit = BatchCommit(
            register=self.register,
            writer=writer,
            rejected=rejected or cast("Rejected", writer),
            breaker=breaker,
        )
        self.aside = Aside(commit, self.register, pace)
        self.committer = Committer(self.entrance.intake, commit, self.aside, batching)

    @property
    def idle(self) -> bool:
        """Whether a stop would wait for nothing here."""
        return self.committer.idle and self.aside.idle

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """The outcomes of the commits, by the names of the objects."""
        return self._updates.outcomes()

    def offer(self, *bodies: Mapping[str, Any]) -> None:
        for body in bodies:
            self.entrance.offer(body)

    def phases(self) -> dict[str, str]:
        """Return the outcomes of the records, by their names."""
        return {name: type(outcome).__name__ for name, outcome in self.outcomes.items()}

    async def run(self) -> None:
        """Run the components until cancelled; an error in one of them ends all."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.committer.run())
            group.create_task(self.aside.run())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the components; an error in one of them is raised here."""
        task = asyncio.create_task(self.run())
        try:
            yield
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.breaker.close()
