"""A bare client of the API server: the operator's requests, with the least work for each."""

import asyncio
import base64
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import aiohttp

from benchmarks.errors import BenchmarkError
from benchmarks.progress import Progress
from datastorage.records.reasons import Reason
from datastorage.records.writes import VectorWrite, WriteState
from datastorage.resources.kinds import AUDIT_RECORD, GROUP, VERSION
from datastorage.resources.status import stored_status

T = TypeVar("T")
R = TypeVar("R")

# What the operator asks for in kube/objects.py: an answer with the metadata alone.
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_LIST_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_STATUS_HEADERS: Final = {"Content-Type": "application/merge-patch+json", "Accept": _METADATA_ONLY}
_JSON_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_CREATE_HEADERS: Final = {"Content-Type": "application/json", "Accept": _METADATA_ONLY}
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=60.0)


@dataclass(frozen=True, slots=True)
class Created:
    """An object in the cluster, at the version that its last write returned."""

    name: str
    uid: str
    version: str


class Client:
    """Requests AuditRecords with the token of a kubeconfig that ControlPlane has written.

    Every method raises BenchmarkError when the API server refuses.
    """

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._server: str = cluster["server"]
        self._token: str = config["users"][0]["user"]["token"]
        self._tls = ssl.create_default_context(cadata=authority)
        self._session: aiohttp.ClientSession | None = None
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """How many requests were made, by (resource, subresource, verb as the API server counts it)."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._server,
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "datastorage-benchmark"},
            timeout=_TIMEOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise BenchmarkError("the client is used outside of its context")
        return self._session

    async def create(self, namespace: str, body: dict[str, Any]) -> Created:
        """Create an object."""
        answer = await self._request("POST", "", _path(namespace), body, _CREATE_HEADERS)
        metadata = json.loads(answer)["metadata"]
        return Created(metadata["name"], metadata["uid"], metadata["resourceVersion"])

    async def write_stored(self, namespace: str, target: Created) -> Created:
        """Patch the status to Stored, with the bytes that the operator would send; return the new version."""
        at = datetime(2026, 1, 1, tzinfo=UTC)
        vector = VectorWrite(WriteState.WRITTEN, Reason.WRITTEN, model="wordllama/l2_supercat_256")
        status = stored_status(
            uid=target.uid, generation=1, stored_at=at, content_hash=bytes(32), expires_at=at,
            vector=vector,
        )  # fmt: skip
        body = {"metadata": {"uid": target.uid}, "status": status}
        path = f"{_path(namespace)}/{target.name}/status"
        answer = await self._request("PATCH", "status", path, body, _STATUS_HEADERS)
        return Created(target.name, target.uid, json.loads(answer)["metadata"]["resourceVersion"])

    async def delete(self, namespace: str, target: Created) -> None:
        """Delete the object, with the preconditions that the operator would send."""
        body = {"preconditions": {"uid": target.uid, "resourceVersion": target.version}}
        await self._request("DELETE", "", f"{_path(namespace)}/{target.name}", body, _JSON_HEADERS)

    async def count(self, namespace: str, *, phase: str | None = None) -> int:
        """Return how many objects are there, by a list of one; those in one phase by a list of all."""
        self.requests[AUDIT_RECORD.plural, "", "LIST"] += 1
        headers = {"Accept": _LIST_METADATA_ONLY}
        # With a selector the server does not say how many remain.
        query = "limit=1" if phase is None else f"fieldSelector=status.phase%3D{phase}"
        async with self._http.get(f"{_path(namespace)}?{query}", headers=headers) as response:
            answer = json.loads(await _body(response))
        return len(answer["items"] or ()) + int(answer["metadata"].get("remainingItemCount", 0))

    async def watch(self, namespace: str, opened: asyncio.Event) -> AsyncIterator[dict[str, Any]]:
        """Yield the events from now on, as any client gets them; set ``opened`` before the first."""
        self.requests[AUDIT_RECORD.plural, "", "WATCH"] += 1
        timeout = aiohttp.ClientTimeout(total=None)
        query = f"?watch=true&resourceVersion={await self._current_version(namespace)}"
        async with self._http.get(_path(namespace) + query, timeout=timeout) as response:
            if not response.ok:
                raise BenchmarkError(f"watch: {response.status}")
            opened.set()
            async for line in response.content:
                yield json.loads(line)

    async def _current_version(self, namespace: str) -> str:
        self.requests[AUDIT_RECORD.plural, "", "LIST"] += 1
        async with self._http.get(f"{_path(namespace)}?limit=1") as response:
            version: str = json.loads(await _body(response))["metadata"]["resourceVersion"]
        return version

    async def _request(
        self, verb: str, subresource: str, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> bytes:
        self.requests[AUDIT_RECORD.plural, subresource, verb] += 1
        data = json.dumps(body).encode()
        async with self._http.request(verb, path, data=data, headers=headers) as response:
            return await _body(response)


def _path(namespace: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{AUDIT_RECORD.plural}"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = await response.read()
    if not response.ok:
        raise BenchmarkError(f"{response.method} {response.url.path}: {response.status} {body[:500]!r}")
    return body


async def for_each(
    items: Iterable[T],
    action: Callable[[T], Awaitable[R]],
    *,
    concurrency: int,
    progress: Progress | None = None,
) -> list[R]:
    """Apply the action to all items, so many at a time; return the results, in no order."""
    waiting = iter(items)
    results: list[R] = []

    async def work() -> None:
        for item in waiting:
            results.append(await action(item))
            if progress is not None:
                progress.update(len(results))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return results
