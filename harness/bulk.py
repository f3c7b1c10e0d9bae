"""Many requests at once: a lean client for loads, where one kubectl a request would take all day."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from datastorage.resources.kinds import ACTION_TRACE, API_VERSION, AUDIT_RECORD, ResourceKind

T = TypeVar("T")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0)
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)
_PAGE: Final = 500
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class RequestError(Exception):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message[:500]}")
        self.status = status


class BulkClient:
    """Creates, reads and deletes custom resources as whom the kubeconfig says."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Open a client; it is closed with the context."""
        configuration = Configuration()
        await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        async with ApiClient(configuration) as api:
            yield cls(api)

    async def create(self, kind: ResourceKind, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object and return it as the server keeps it."""
        return await self.request("POST", path(kind, namespace), body)

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any] | None:
        """Return the object, or None when there is none."""
        try:
            return await self.request("GET", path(kind, namespace, name))
        except RequestError as error:
            if error.status == 404:
                return None
            raise

    async def patch(
        self, kind: ResourceKind, namespace: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Apply a JSON merge patch and return the object."""
        return await self.request("PATCH", path(kind, namespace, name), body)

    async def delete(self, kind: ResourceKind, namespace: str, name: str) -> None:
        """Delete the object."""
        await self.request("DELETE", path(kind, namespace, name))

    async def list(
        self, kind: ResourceKind, namespace: str, *, field_selector: str = ""
    ) -> list[dict[str, Any]]:
        """Return all objects of the namespace."""
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            query = f"?limit={_PAGE}&continue={token}&fieldSelector={field_selector}"
            answer = await self.request("GET", path(kind, namespace) + query)
            items += answer["items"]
            token = answer["metadata"].get("continue", "")
            if not token:
                return items

    async def names(self, kind: ResourceKind, namespace: str) -> set[str]:
        """Return the names of the namespace's objects without reading what is in them."""
        listed = await self.request("GET", path(kind, namespace), accept=_METADATA_ONLY)
        return {item["metadata"]["name"] for item in listed["items"] or ()}

    async def watch(self, kind: ResourceKind, namespace: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield type and object of everything that happens in the namespace from now on."""
        listed = await self.request("GET", path(kind, namespace) + "?limit=1")
        version = listed["metadata"]["resourceVersion"]
        while True:
            url = f"{path(kind, namespace)}?watch=true&resourceVersion={version}"
            headers = {"Accept": "application/json"}
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], url, "GET", None)
            response = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
                "GET", self._api.configuration.host + url, headers=headers, _request_timeout=_WATCH_TIMEOUT
            )
            async for line in response.response.content:
                event = json.loads(line)
                version = event["object"]["metadata"]["resourceVersion"]
                yield event["type"], event["object"]

    async def request(
        self, method: str, url: str, body: Any = None, *, accept: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request and return the answer. Raises RequestError for an error status."""
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], url, method, body)
        response = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
            method, self._api.configuration.host + url, headers=headers, body=body, _request_timeout=_TIMEOUT
        )
        data = await response.read()
        if response.status >= 400:
            raise RequestError(response.status, data.decode("utf-8", "replace"))
        answer: dict[str, Any] = json.loads(data)
        return answer


def path(kind: ResourceKind, namespace: str, name: str = "") -> str:
    """Return the URL path of a kind's objects in a namespace, or of one of them."""
    tail = f"/{name}" if name else ""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{kind.plural}{tail}"


def audit_record(name: str, **spec: Any) -> dict[str, Any]:
    """Return a valid AuditRecord with the given name; ``spec`` overrides single fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": AUDIT_RECORD.kind,
        "metadata": {"name": name},
        "spec": {
            "type": "Remediation",
            "action": "restart-pod",
            "phase": "Completed",
            "correlationID": "rr-0001",
            "startTime": "2026-01-01T00:00:00Z",
            "endTime": "2026-01-01T00:00:05Z",
            "message": f"restarted the pod that {name} is about",
            **spec,
        },
    }


def action_trace(name: str, **spec: Any) -> dict[str, Any]:
    """Return a valid ActionTrace with the given name; ``spec`` overrides single fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": ACTION_TRACE.kind,
        "metadata": {"name": name},
        "spec": {
            "correlationID": "rr-0001",
            "actionType": "scale-deployment",
            "targetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "namespace": "shop",
                "name": "checkout",
            },
            **spec,
        },
    }


async def gather_bounded(tasks: Iterable[Awaitable[T]], limit: int) -> list[T]:
    """Await all with at most ``limit`` at once; results in order."""
    slots = asyncio.Semaphore(limit)

    async def one(task: Awaitable[T]) -> T:
        async with slots:
            return await task

    return list(await asyncio.gather(*(one(task) for task in tasks)))
