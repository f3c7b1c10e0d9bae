"""The requests that the operator makes to the API server, and the one place where its answers are judged."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient

from datastorage.errors import (
    NotServedError,
    ObjectChangedError,
    ObjectGoneError,
    ObjectTooLargeError,
    RequestRefusedError,
    TransientError,
)
from datastorage.resources import GROUP, VERSION, ResourceKind

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
# The answer to a patch is only read for the new resourceVersion: ask for no more than the metadata.
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
# Parsed JSON takes up to 24 times its size (many empty lists). 500 ordinary records are about 1 MB.
_MAX_PAGE_BYTES: Final = 2 * 1024 * 1024
_MAX_MESSAGE_CHARACTERS: Final = 500


class KubernetesClient:
    """Reads and writes the custom resources.

    Every method raises TransientError when the API server is away or overloaded, and RequestRefusedError
    when it says no for good (rights, admission, validation).
    """

    def __init__(self, api_client: ApiClient, *, namespaces: tuple[str, ...] = ()) -> None:
        """``namespaces`` limits lists to these; none means all."""
        self._api = api_client
        self._namespaces = namespaces

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

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
        )
        version: str = json.loads(answer)["metadata"]["resourceVersion"]
        return version

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None:
        """Delete exactly this object at exactly this version.

        Raises ObjectGoneError, or ObjectChangedError when another object or version is there.
        """
        await self._request(
            "DELETE",
            f"{_path(kind, namespace)}/{quote(name)}",
            body={"preconditions": {"uid": uid, "resourceVersion": resource_version}},
        )

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        """Return the object as it is now. Raises ObjectGoneError."""
        answer: dict[str, Any] = json.loads(
            await self._request("GET", f"{_path(kind, namespace)}/{quote(name)}")
        )
        return answer

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
                raw = await self._request("GET", f"{path}?{urlencode(query)}", max_bytes=_max_bytes(limit))
            except _AnswerTooLargeError:
                limit = max(1, limit // 4)
                continue
            except ObjectGoneError as error:
                if not continuation or isinstance(error, NotServedError):
                    raise
                continuation = ""
                continue
            answer = json.loads(raw)
            yield answer["items"] or []
            continuation = answer["metadata"].get("continue") or None
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
    ) -> bytes:
        headers = {"Accept": accept, "Content-Type": content_type, **self._api.default_headers}
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._api.rest_client.request(
                method,
                self._api.configuration.host + path,
                headers=headers,
                body=body,
                _request_timeout=_TIMEOUT,
            )
            answer = await _read(response.response, max_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TransientError(f"API server: {str(error) or type(error).__name__}") from error
        if response.status >= 400:
            raise _error(response.status, answer)
        return answer


class _AnswerTooLargeError(Exception):
    """The answer is larger than the caller wants to hold."""


def _max_bytes(limit: int) -> int | None:
    # One object has to fit, whatever its size: the API server bounds it.
    return _MAX_PAGE_BYTES if limit > 1 else None


async def _read(response: aiohttp.ClientResponse, max_bytes: int | None) -> bytes:
    if max_bytes is None:
        return await response.read()
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > max_bytes:
            response.close()
            raise _AnswerTooLargeError
    return bytes(answer)


def _path(kind: ResourceKind, namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace is not None else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{kind.plural}"


def _error(status: int, answer: bytes) -> Exception:
    body: Any = None
    try:
        body = json.loads(answer)
        message = str(body.get("message", "")) if isinstance(body, dict) else ""
    except ValueError:
        message = answer.decode("utf-8", "replace")
    message = f"API server ({status}): {message[:_MAX_MESSAGE_CHARACTERS]}"
    # etcd's own limit on the size of an object comes back as an internal error.
    if status == 413 or (status == 500 and "request is too large" in message):
        return ObjectTooLargeError(message)
    # A missing object is named in the answer. Where the path itself is unknown there is nothing to name.
    if status == 404 and not _names_an_object(body):
        return NotServedError(message)
    if status in {404, 410}:
        return ObjectGoneError(message)
    if status == 409:
        return ObjectChangedError(message)
    # 401 passes when the token has been renewed.
    if status in {401, 408, 429} or status >= 500:
        return TransientError(message)
    return RequestRefusedError(message)


def _names_an_object(body: Any) -> bool:
    details = body.get("details") if isinstance(body, dict) else None
    return isinstance(details, dict) and bool(details.get("name"))
