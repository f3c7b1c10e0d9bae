"""Takes batches from the intake and has them stored. What is refused goes aside, and the next batch comes."""

from collections.abc import Sequence
from typing import Final

from datastorage import metrics
from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.aside import Aside
from datastorage.pipeline.committer import Committer
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.item import WorkItem

# Large enough that the cost of a transaction vanishes, small enough that a batch takes tens of milliseconds.
_MAX_BATCH_ITEMS: Final = 500
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
# After a batch was too much the next ones are half of it, and grow again. Where the limit stays, one of eight
# is tried in vain.
_GROWTH: Final = 1.1
# Still so many at once that a refusal takes many of those that are to be refused out of the others' way.
_LEAST_SHARE: Final = 0.05
_LINGER_SECONDS: Final = 0.02


class Coordinator:
    """The middle of the pipeline."""

    def __init__(self, *, intake: Intake, committer: Committer, aside: Aside) -> None:
        """``aside`` takes over what is refused."""
        self._intake = intake
        self._committer = committer
        self._aside = aside
        self._busy = 0
        # How much of a full batch PostgreSQL takes at present.
        self._share = 1.0

    @property
    def idle(self) -> bool:
        """True when nothing waits in the intake, no batch is under way, and none is divided."""
        return not self._busy and not self._intake.depth and self._aside.idle

    async def run(self) -> None:
        """Work until cancelled. Several may run at once: a batch is prepared while another commits."""
        while True:
            batch = await self._intake.take(
                max_items=max(1, round(_MAX_BATCH_ITEMS * self._share)),
                max_bytes=round(_MAX_BATCH_BYTES * self._share),
                linger_seconds=_LINGER_SECONDS,
            )
            self._busy += 1
            try:
                metrics.BATCH_SIZE.observe(len(batch))
                await self._store(batch)
            finally:
                self._busy -= 1

    async def _store(self, batch: Sequence[WorkItem]) -> None:
        try:
            await self._committer.store(batch)
        except RecordRefusedError as error:
            await self._aside.put(batch, error)
        except WorkRefusedError as error:
            # A limit that it met (a time, a size) is met by the next one of its size too. That is not so of a
            # rule for single records: in small batches, each of them would hold up those behind it.
            if len(batch) > 1 and error.is_limit:
                self._share = max(self._share / 2, _LEAST_SHARE)
            await self._aside.put(batch, error)
        else:
            self._share = min(self._share * _GROWTH, 1.0)
