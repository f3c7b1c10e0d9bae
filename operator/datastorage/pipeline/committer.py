"""The loop that takes batches from the intake and commits them."""

from dataclasses import dataclass

from datastorage import metrics
from datastorage.errors import RecordRefusedError, WorkRefusedError
from datastorage.pipeline.batchcommit import BatchCommit
from datastorage.pipeline.intake import Intake
from datastorage.pipeline.setaside import Aside


@dataclass(frozen=True)
class Pace:
    """How large a batch is, and how long it waits for more items."""

    batch_items: int = 500
    """Large enough that the cost of a transaction vanishes, small enough to take tens of milliseconds."""
    batch_bytes: int = 8 * 1024 * 1024
    linger_seconds: float = 0.005
    """A request waits for all of it. While PostgreSQL is busy, a batch fills by itself."""
    growth: float = 1.1
    """After a batch was too large, the next ones are half its size and grow again by this factor. While the
    limit lasts, about one batch in eight is too large.
    """
    least_share: float = 0.05
    """The smallest share of a full batch: large enough that one refusal takes many bad records out of the way
    of the others.
    """


class Committer:
    """Commits batches, and sets aside those that are refused. Several of its loops may run at once."""

    def __init__(self, intake: Intake, commit: BatchCommit, aside: Aside, pace: Pace = Pace()) -> None:
        """``aside`` has to run as well."""
        self._intake = intake
        self._commit = commit
        self._aside = aside
        self._pace = pace
        self._busy = 0
        # How much of a full batch PostgreSQL takes at present.
        self._share = 1.0

    @property
    def idle(self) -> bool:
        """True when nothing waits in the intake, and no batch is under way. What is set aside is not."""
        return not self._busy and not self._intake.depth

    async def run(self) -> None:
        """Take batches and commit them until cancelled. A refused batch is set aside, and the next one taken.

        Two of these loops are useful: a batch is prepared while another one commits.
        """
        pace = self._pace
        while True:
            batch = await self._intake.take(
                max_items=max(1, round(pace.batch_items * self._share)),
                max_bytes=round(pace.batch_bytes * self._share),
                linger_seconds=pace.linger_seconds,
            )
            self._busy += 1
            try:
                metrics.BATCH_SIZE.observe(len(batch))
                await self._commit.commit(batch)
            except (RecordRefusedError, WorkRefusedError) as error:
                # Another batch of this size would meet the same limit (of time or size). Smaller batches are
                # no help against a rule about single records: each refused one would hold up those behind.
                if len(batch) > 1 and isinstance(error, WorkRefusedError) and error.is_limit:
                    self._share = max(self._share / 2, pace.least_share)
                await self._aside.put(batch, error)
            else:
                self._share = min(self._share * pace.growth, 1.0)
            finally:
                self._busy -= 1
