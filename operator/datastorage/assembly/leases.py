"""Builds the Leases of a process, one for each shard."""

import hashlib
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from datastorage import metrics
from datastorage.kube.leases import Leases
from datastorage.kube.transport import Transport
from datastorage.pipeline.balance import Balance
from datastorage.pipeline.lease import Lease
from datastorage.settings import Settings


@dataclass(frozen=True)
class ShardLeases:
    """The Leases in the order of the shards, and what spreads them over the replicas."""

    leases: Sequence[Lease]
    balance: Balance

    def retire(self) -> None:
        """Keep the Leases that are held, and take no others: the process stops."""
        for lease in self.leases:
            lease.retire()


def build_leases(
    settings: Settings, transport: Transport, *, is_fit: Callable[[], bool]
) -> ShardLeases | None:
    """Return the Leases, or None if the settings name no namespace for them; ``is_fit`` as in Lease."""
    if settings.lease_namespace is None:
        return None
    store = Leases(transport, settings.lease_namespace)
    # The name of the pod shows which one it is; the rest makes a restarted container another process.
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    leases = []
    for shard in range(settings.shards):
        name = _name(settings, shard)
        lease = Lease(store, name, identity, is_fit=is_fit)
        # It is looked up for each scrape: a Lease ends by itself.
        metrics.LEASE_HELD.declare(name).set_function(partial(_held, lease))
        leases.append(lease)
    return ShardLeases(leases, Balance(leases, identity))


def _name(settings: Settings, shard: int) -> str:
    """Return a name that only replicas share which divide the same objects in the same way.

    While the number of shards or the namespaces are changed, old and new replicas each process all objects.
    """
    name = f"datastorage-shard-{shard}-of-{settings.shards}"
    if settings.namespaces:
        served = ",".join(sorted(settings.namespaces))
        name += f"-in-{hashlib.sha256(served.encode()).hexdigest()[:8]}"
    return name


def _held(lease: Lease) -> float:
    return float(lease.is_held)
