"""Waits for what the installation does after a fault."""

from typing import Final

from e2e.installed.installation import Installation, Leader
from harness.polling import until

_SECONDS: Final = 120.0


async def leader_of(installation: Installation) -> Leader:
    """Wait until a pod leads, and return it."""
    return await until(installation.leader, seconds=_SECONDS, what="a pod leads")


async def other_leader(installation: Installation, former: Leader) -> Leader:
    """Wait until another process leads, and return its pod."""

    async def taken_over() -> Leader | None:
        found = await installation.leader()
        return None if found is None or found.holder == former.holder else found

    return await until(taken_over, seconds=_SECONDS, what="another process leads")
