"""A lean client for many requests at once, where one kubectl per request would take too long."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from datastorage.resources.kinds import API_VERSION, ResourceKind

T = TypeVar("T")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=60.0)
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)
_PAGE: Final = 500
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
LIST_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class RequestError(Exception):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message[:500]}")
        self.status = status


class BulkClient:
    """Creates, reads and deletes custom resources as the user of a kubeconfig."""

    def __init__(self, configuration: Configuration, session: aiohttp.ClientSession) -> None:
        self._configuration = configuration
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Open a client; it is closed with the context."""
        configuration = Configuration()
        await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        # Connections are not limited here: the caller bounds the requests at a time.
        connector = aiohttp.TCPConnector(limit=0, ssl=_tls(configuration))
        async with aiohttp.ClientSession(
            connector=connector, timeout=_TIMEOUT, proxy=configuration.proxy
        ) as session:
            yield cls(configuration, session)

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, metadata_only: bool = False
    ) -> dict[str, Any]:
        """Create an object and return it as the server keeps it, or its metadata alone."""
        accept = _METADATA_ONLY if metadata_only else "application/json"
        return await self.request("POST", path(kind, namespace), body, accept=accept)

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

    async def patch_status(
        self, kind: ResourceKind, namespace: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Apply a JSON merge patch to the status, as the operator does, and return the new metadata."""
        url = f"{path(kind, namespace, name)}/status"
        return await self.request("PATCH", url, body, accept=_METADATA_ONLY)

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, preconditions: Mapping[str, str] | None = None
    ) -> None:
        """Delete the object, if the preconditions hold."""
        body = None if preconditions is None else {"preconditions": dict(preconditions)}
        await self.request("DELETE", path(kind, namespace, name), body)

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
        """Return the names of the namespace's objects without reading their contents."""
        listed = await self.request("GET", path(kind, namespace), accept=LIST_METADATA_ONLY)
        return {item["metadata"]["name"] for item in listed["items"] or ()}

    async def watch(
        self, kind: ResourceKind, namespace: str, *, opened: asyncio.Event | None = None
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the type and the object of each event in the namespace from now on.

        ``opened`` is set as soon as no event can be missed any more.
        """
        listed = await self.request("GET", path(kind, namespace) + "?limit=1")
        version = listed["metadata"]["resourceVersion"]
        while True:
            url = f"{path(kind, namespace)}?watch=true&resourceVersion={version}"
            headers = await self._headers("application/json")
            async with self._session.get(
                self._configuration.host + url, headers=headers, timeout=_WATCH_TIMEOUT
            ) as response:
                await _check(response)
                if opened is not None:
                    opened.set()
                async for line in response.content:
                    event = json.loads(line)
                    version = event["object"]["metadata"]["resourceVersion"]
                    yield event["type"], event["object"]

    async def request(
        self, method: str, url: str, body: Any = None, *, accept: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request and return the answer. Raises RequestError for an error status."""
        headers = await self._headers(accept)
        headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with self._session.request(
            method, self._configuration.host + url, headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        ) as response:  # fmt: skip
            await _check(response)
            answer: dict[str, Any] = json.loads(await response.read())
        return answer

    async def _headers(self, accept: str) -> dict[str, str]:
        # The settings are read every time, because a token from a plugin of the kubeconfig expires.
        auth = await self._configuration.auth_settings()
        bearer = auth.get("BearerToken")
        return {"Accept": accept} | ({} if bearer is None else {"Authorization": str(bearer["value"])})


async def _check(response: aiohttp.ClientResponse) -> None:
    if not response.ok:
        raise RequestError(response.status, (await response.read()).decode("utf-8", "replace"))


def _tls(configuration: Configuration) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


def path(kind: ResourceKind, namespace: str, name: str = "") -> str:
    """Return the URL path of a kind's objects in a namespace, or of one of them."""
    tail = f"/{name}" if name else ""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{kind.plural}{tail}"


async def gather_bounded(tasks: Iterable[Awaitable[T]], limit: int) -> list[T]:
    """Await all with at most ``limit`` at once; results in order."""
    slots = asyncio.Semaphore(limit)

    async def one(task: Awaitable[T]) -> T:
        async with slots:
            return await task

    return list(await asyncio.gather(*(one(task) for task in tasks)))
