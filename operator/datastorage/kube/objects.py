"""The requests that the operator makes to the API server, and the one place where its answers are judged."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp

from datastorage.errors import (
    ClusterUnavailableError,
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
)
from datastorage.kube.accessmonitor import Right
from datastorage.kube.transport import Transport, message_of
from datastorage.resilience.causes import connection_trouble
from datastorage.resources import GROUP, VERSION, ResourceKind

# The total holds for the body too.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
# The answer to a patch is only read for the new resourceVersion: ask for no more than the metadata.
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
# Parsed JSON takes up to 24 times its size (many empty lists). 500 ordinary records are about 1 MB.
_MAX_PAGE_BYTES: Final = 2 * 1024 * 1024


class KubernetesClient:
    """Reads and writes the custom resources.

    Every method raises ClusterUnavailableError when the API server is away or overloaded, and
    RequestRefusedError when it says no for good (rights, admission, validation).
    """

    def __init__(self, transport: Transport, *, namespaces: tuple[str, ...] = ()) -> None:
        """``namespaces`` limits lists to these; none means all."""
        self._transport = transport
        self._namespaces = namespaces

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def patch_status(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        *,
        resource_version: str,
        status: Mapping[str, Any],
    ) -> str:
        """Write the status of the object if it is still at this version; return its new version.

        The version is the only guard that works here: to a status request for a custom resource the API
        server does not hold the uid against the object, so that without it a patch meant for a deleted
        object would land on its successor of the same name.

        Raises ObjectGoneError, or ObjectChangedError when another version or another object is there.
        """
        answer = await self._request(
            "PATCH",
            f"{_path(kind, namespace)}/{quote(name)}/status",
            body={"metadata": {"resourceVersion": resource_version}, "status": status},
            content_type=_MERGE_PATCH,
            accept=_METADATA_ONLY,
            write=Right("patch", f"{kind.plural}/status", namespace),
        )
        version: str = _metadata(_parsed(answer))["resourceVersion"]
        return version

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None:
        """Delete exactly this object at exactly this version.

        Raises ObjectGoneError, or ObjectChangedError when another object or version is there.
        """
        answer = await self._request(
            "DELETE",
            f"{_path(kind, namespace)}/{quote(name)}",
            body={"preconditions": {"uid": uid, "resourceVersion": resource_version}},
            write=Right("delete", kind.plural, namespace),
        )
        _parsed(answer)  # the page of a proxy is no proof of a deletion

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        """Return the object as it is now. Raises ObjectGoneError."""
        return _parsed(await self._request("GET", f"{_path(kind, namespace)}/{quote(name)}"))

    async def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """List the objects page by page: no more than one page is in memory, and large objects make it short.

        A list that takes so long that its continuation expires begins anew, so that objects may come twice.
        A namespace that may not be read does not keep the others from being listed; its error comes last.
        Raises NotServedError when the API server does not serve the kind.
        """
        refusal: RequestRefusedError | None = None
        for namespace in self._namespaces or (None,):
            try:
                async for page in self._pages(_path(kind, namespace), field_selector, page_size):
                    yield page
            except RequestRefusedError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    async def _pages(
        self, path: str, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        continuation: str | None = ""
        limit = page_size
        while continuation is not None:
            query = {"fieldSelector": field_selector, "limit": str(limit), "continue": continuation}
            try:
                raw = await self._request(
                    "GET",
                    f"{path}?{urlencode(query)}",
                    max_bytes=_max_bytes(limit),
                    right=f"list {path}",
                )
                answer = _parsed(raw)
            except _AnswerTooLargeError:
                limit = max(1, limit // 4)
                continue
            except ObjectGoneError as error:
                if not continuation or isinstance(error, NotServedError):
                    raise
                continuation = ""
                continue
            continuation = _metadata(answer).get("continue") or None
            yield answer.get("items") or []
            limit = min(page_size, limit * 2)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        max_bytes: int | None = None,
        right: str | None = None,
        write: Right | None = None,
    ) -> bytes:
        try:
            response = await self._transport.request(
                method,
                path,
                headers={"Accept": accept, "Content-Type": content_type},
                body=json.dumps(body).encode() if body is not None else None,
                timeout=_TIMEOUT,
                right=right,
            )
            async with response:
                answer = await _read(response, max_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterUnavailableError(f"API server: {connection_trouble(error)}") from error
        if response.status == 403 and write is not None:
            self._transport.monitor.suspect(write)
        if response.status >= 400:
            raise _error(response.status, answer)
        return answer


class _AnswerTooLargeError(Exception):
    """The answer is larger than the caller wants to hold."""


def _max_bytes(limit: int) -> int | None:
    # One object has to fit, whatever its size: the API server bounds it.
    return _MAX_PAGE_BYTES if limit > 1 else None


async def _read(response: aiohttp.ClientResponse, max_bytes: int | None) -> bytes:
    if max_bytes is None or response.status >= 400:  # the transport may have read an error already
        return await response.read()
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > max_bytes:
            response.close()
            raise _AnswerTooLargeError
    return bytes(answer)


def _parsed(answer: bytes) -> dict[str, Any]:
    """Return the object in the answer. Raises ClusterUnavailableError for anything else."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ClusterUnavailableError(
            "API server: the answer is no JSON object; is a proxy or a login page before it?"
        )
    return parsed


def _metadata(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = answer.get("metadata")
    if not isinstance(metadata, dict):
        raise ClusterUnavailableError(
            "API server: the answer has no metadata; is it an API server that answers?"
        )
    return metadata


def _path(kind: ResourceKind, namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace is not None else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{kind.plural}"


def _error(status: int, answer: bytes) -> Exception:
    message = f"API server ({status}): {message_of(answer)}"
    # etcd's own limit on the size of an object comes back as an internal error.
    if status == 413 or (status == 500 and "request is too large" in message):
        return ObjectTooLargeError(message)
    # A missing object is named in the answer. Where the path itself is unknown there is nothing to name.
    if status == 404 and not _names_an_object(answer):
        return NotServedError(message)
    if status in {404, 410}:
        return ObjectGoneError(message)
    if status == 409:
        return ObjectChangedError(message)
    # 401 passes when the token has been renewed.
    if status in {401, 408, 429} or status >= 500:
        return ClusterUnavailableError(message)
    return RequestRefusedError(message)


def _names_an_object(answer: bytes) -> bool:
    try:
        body = json.loads(answer)
    except ValueError:
        return False
    details = body.get("details") if isinstance(body, dict) else None
    return isinstance(details, dict) and bool(details.get("name"))
