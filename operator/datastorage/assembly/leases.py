"""Builds the Leases of a process, one for each shard."""

import socket
import uuid
from collections.abc import Sequence
from functools import partial

from datastorage import metrics
from datastorage.kube.leases import Leases
from datastorage.kube.transport import Transport
from datastorage.pipeline.lease import Lease
from datastorage.settings import Settings


def build_leases(settings: Settings, transport: Transport) -> Sequence[Lease]:
    """Return the Leases in the order of the shards; none if the settings name no namespace for them."""
    if settings.lease_namespace is None:
        return ()
    store = Leases(transport, settings.lease_namespace)
    # The name of the pod shows who it is; the rest makes a restarted container another process.
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    # While the number of shards is changed, old and new replicas divide the objects in different ways.
    names = [f"datastorage-shard-{shard}-of-{settings.shards}" for shard in range(settings.shards)]
    leases = tuple(Lease(store, name, identity) for name in names)
    for name, lease in zip(names, leases, strict=True):
        # It is looked up for each scrape: a Lease ends by itself.
        metrics.LEASE_HELD.labels(name).set_function(partial(_held, lease))
    return leases


def _held(lease: Lease) -> float:
    return float(lease.is_held)
