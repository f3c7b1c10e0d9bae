"""The part of the pipeline between the intake and the status, on a real database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from datastorage.pipeline.aside import Aside
from datastorage.pipeline.committer import Committer, Rejected, Writer
from datastorage.pipeline.coordinator import Coordinator
from datastorage.pipeline.intake import Intake
from datastorage.resilience.breaker import Breaker
from harness.objects import kind_of
from tests.support.fakes import Announced


@dataclass(frozen=True)
class Storing:
    """Runs as the operator does, with two coordinators."""

    intake: Intake
    breaker: Breaker
    coordinator: Coordinator
    aside: Aside
    announced: Announced

    def offer(self, *bodies: Mapping[str, Any]) -> None:
        for body in bodies:
            self.intake.offer(kind_of(body), body)

    def phases(self) -> dict[str, str]:
        """Return what became of the records, by their names."""
        return {name: type(outcome).__name__ for name, outcome in self.announced.outcomes.items()}


def storing(intake: Intake, writer: Writer, rejected: Rejected, breaker: Breaker) -> Storing:
    """Wire the parts."""
    announced = Announced()
    committer = Committer(
        intake=intake, writer=writer, rejected=rejected, breaker=breaker, announcer=announced
    )
    aside = Aside(committer=committer, intake=intake)
    coordinator = Coordinator(intake=intake, committer=committer, aside=aside)
    return Storing(intake, breaker, coordinator, aside, announced)


@asynccontextmanager
async def running(parts: Storing) -> AsyncIterator[None]:
    """Run the parts; what fails in them fails here."""
    tasks = [asyncio.create_task(parts.coordinator.run()) for _ in range(2)]
    tasks.append(asyncio.create_task(parts.aside.run()))
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.breaker.close()
