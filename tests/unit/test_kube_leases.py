"""Leases as the API server has them, and its answers that are no Leases."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from datastorage.errors import ClusterError, ClusterUnavailableError, ObjectChangedError
from datastorage.kube.endpoint import Endpoint
from datastorage.kube.leases import Leases, LeaseState
from datastorage.kube.transport import Transport
from harness.apiserver import FakeApiServer
from harness.polling import DEADLINE_SECONDS
from harness.proxy import silent_server

_PATH = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
_STATE = LeaseState(
    "pod_1",
    15,
    "2026-01-01T00:00:00.000000Z",
    "2026-01-01T00:00:05.000000Z",
    3,
    requested_by="pod_2",
    offered=True,
)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer().serve() as running:
        yield running


@pytest_asyncio.fixture
async def leases(server: FakeApiServer) -> AsyncIterator[Leases]:
    async with server.transport() as transport:
        yield Leases(transport, "system")


async def test_a_lease_is_read_as_it_was_written(server: FakeApiServer, leases: Leases) -> None:
    server.answer(201, {"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "pod_1"}})
    assert (await leases.put("shard-0", _STATE, seconds=DEADLINE_SECONDS)).version == "7"
    (written,) = server.requests
    assert (written.method, written.path) == ("POST", _PATH)
    assert written.body["metadata"]["name"] == "shard-0"

    written.body["metadata"]["resourceVersion"] = "7"
    server.answer(200, written.body)
    read = await leases.get("shard-0", seconds=DEADLINE_SECONDS)
    assert read is not None
    assert read == replace(_STATE, version="7")


async def test_a_write_names_the_version_that_it_replaces(server: FakeApiServer, leases: Leases) -> None:
    server.answer(200, {"metadata": {"resourceVersion": "8"}, "spec": {}})
    state = replace(_STATE, version="7", requested_by="", offered=False)
    await leases.put("shard-0", state, seconds=DEADLINE_SECONDS)
    (written,) = server.requests
    assert (written.method, written.path) == ("PUT", f"{_PATH}/shard-0")
    assert written.body["metadata"]["resourceVersion"] == "7"
    assert written.body["metadata"]["annotations"] == {}


async def test_metadata_of_others_is_written_back(server: FakeApiServer, leases: Leases) -> None:
    server.answer(201, {"metadata": {"resourceVersion": "7"}, "spec": {}})
    await leases.put("shard-0", _STATE, seconds=DEADLINE_SECONDS)
    metadata = server.requests[-1].body["metadata"]
    metadata["resourceVersion"] = "7"
    metadata["labels"]["team"] = "storage"
    metadata["annotations"]["note"] = "seen"
    metadata["ownerReferences"] = [{"uid": "1"}]
    metadata["managedFields"] = [{"manager": "somebody"}]
    answer = {"metadata": metadata, "spec": {"holderIdentity": "pod_1"}}
    server.answer(200, answer)
    found = await leases.get("shard-0", seconds=DEADLINE_SECONDS)
    assert found is not None
    server.answer(200, answer)
    await leases.put("shard-0", replace(found, requested_by="", offered=False), seconds=DEADLINE_SECONDS)
    written = server.requests[-1].body["metadata"]
    assert written["labels"] == {"app.kubernetes.io/name": "datastorage", "team": "storage"}
    assert written["annotations"] == {"note": "seen"}
    assert written["ownerReferences"] == [{"uid": "1"}]
    assert "managedFields" not in written


async def test_what_somebody_wrote_by_hand_is_written_back_as_the_api_server_takes_it(
    server: FakeApiServer, leases: Leases
) -> None:
    spec = {"leaseDurationSeconds": None, "leaseTransitions": 2**31 - 1, "acquireTime": None}
    metadata = {"resourceVersion": "7", "annotations": ["odd"]}
    server.answer(200, {"metadata": metadata, "spec": spec})
    found = await leases.get("shard-0", seconds=DEADLINE_SECONDS)
    assert found is not None
    server.answer(200, {"metadata": metadata, "spec": spec})
    await leases.put(
        "shard-0", replace(found, holder="a", transitions=found.transitions + 1), seconds=DEADLINE_SECONDS
    )
    assert server.requests[-1].body["spec"] == {
        "holderIdentity": "a", "leaseDurationSeconds": 1, "leaseTransitions": 2**31 - 1,
    }  # fmt: skip


async def test_a_missing_lease_is_none(server: FakeApiServer, leases: Leases) -> None:
    server.answer(404, {"kind": "Status", "details": {"name": "shard-0", "kind": "leases"}})
    assert await leases.get("shard-0", seconds=DEADLINE_SECONDS) is None


@pytest.mark.parametrize(
    ("status", "error"),
    [(409, ObjectChangedError), (500, ClusterUnavailableError), (503, ClusterUnavailableError)],
)
async def test_a_refused_write_is_an_error(
    server: FakeApiServer, leases: Leases, status: int, error: type[ClusterError]
) -> None:
    server.refuse(status, "no")
    with pytest.raises(error, match=r"^Lease system/shard-0: "):
        await leases.put("shard-0", _STATE, seconds=DEADLINE_SECONDS)


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"metadata": {"resourceVersion": "1"}, "spec": None}])
async def test_an_answer_that_is_no_lease_does_no_harm(
    server: FakeApiServer, leases: Leases, body: dict[str, Any]
) -> None:
    server.answer(200, body)
    try:
        read = await leases.get("shard-0", seconds=DEADLINE_SECONDS)
    except ClusterError:
        return
    assert read is not None
    assert read.holder == ""


async def test_a_silent_api_server_ends_the_request_in_time() -> None:
    with silent_server() as address:
        endpoint = Endpoint(source="a test", server=f"http://{address}", authorization="")
        async with Transport(lambda: endpoint) as transport:
            with pytest.raises(ClusterUnavailableError):
                await Leases(transport, "system").get("shard-0", seconds=0.05)
