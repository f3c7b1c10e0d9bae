"""Several operators that share one namespace and database by Leases, as the replicas of a Deployment do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from e2e.workbench import Workbench
from harness.installed import NAMESPACE
from harness.leases import are_shared_evenly
from harness.operatorprocess import OperatorProcess
from harness.polling import until

# A Lease lasts 15 s; the rest is for a machine that starts twenty operators at once.
_SECONDS: Final = 180.0


def start(workbench: Workbench, kubeconfigs: Sequence[Path | None], **settings: Any) -> list[OperatorProcess]:
    """Start an operator for each kubeconfig (None: that of the workbench), and wait until all are ready."""
    started = [
        workbench.start_operator(
            wait=False,
            kubeconfig=each,
            LEASE_NAMESPACE=NAMESPACE,
            **{"TTL_SECONDS_AFTER_STORED": 3600, **settings},
        )
        for each in kubeconfigs
    ]
    for operator in started:
        operator.wait_ready(_SECONDS)
    return started


async def leader(operators: Sequence[OperatorProcess]) -> OperatorProcess:
    """Return the only operator that holds the Lease, once there is one."""

    async def found() -> list[OperatorProcess] | None:
        leaders = [each for each in operators if await asyncio.to_thread(each.held_leases)]
        return leaders if len(leaders) == 1 else None

    return (await until(found, seconds=_SECONDS, what="one operator holds the Lease"))[0]


async def shared_evenly(operators: Sequence[OperatorProcess], shards: int) -> None:
    """Wait until every Lease has one holder, and the operators' numbers of Leases differ by one at most."""

    async def even() -> bool:
        held = [await asyncio.to_thread(each.held_leases) for each in operators]
        return are_shared_evenly(held, shards)

    await until(even, seconds=_SECONDS, what=f"the operators share {shards} Leases evenly")
