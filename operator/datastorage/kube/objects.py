"""Requests for the two kinds: writing a status, deleting an object, reading one, listing pages."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from datastorage.errors import NotServedError, ObjectGoneError, RequestRefusedError
from datastorage.kube.answers import items_of, metadata_of, version_of
from datastorage.kube.apirequest import MERGE_PATCH, ApiRequest, Target
from datastorage.kube.targets import target_of
from datastorage.kube.transport import AnswerTooLargeError, Transport
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.selection import EVERYTHING, Selection

# Only the new resourceVersion in the answer to a patch is used, so only metadata is requested.
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
# Parsed JSON takes up to 24 times its size (many empty lists). 500 ordinary records are about 1 MB.
_MAX_PAGE_BYTES: Final = 2 * 1024 * 1024


class ObjectClient:
    """Reads and writes the custom resources.

    Every method raises a ClusterError that names the object: ClusterUnavailableError when the API server is
    away or overloaded, and RequestRefusedError when it refuses for good (rights, admission, validation).
    """

    def __init__(
        self,
        transport: Transport,
        selection: Selection = EVERYTHING,
        *,
        max_page_bytes: int = _MAX_PAGE_BYTES,
    ) -> None:
        """Lists contain only the objects of the selection. A page larger than ``max_page_bytes`` is requested
        again with fewer objects.
        """
        self._transport = transport
        self._selection = selection
        self._max_page_bytes = max_page_bytes

    async def create(
        self, kind: ResourceKind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create an object and return it as the API server has it then, changed by admission.

        ``dry_run``: return the same without creating it. Raises ObjectChangedError if there is an object of
        that name, and ObjectGoneError if there is no such namespace. A missing right is not reviewed, so that
        /ready does not fail for it: this right is for times when PostgreSQL is away.
        """
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        target = target_of(kind, namespace, body["metadata"]["name"])
        answer = await self._transport.call(ApiRequest("POST", target, query=query, body=body))
        metadata_of(answer, target)
        return answer

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

        Only the version protects other objects here: in a status request for a custom resource the API server
        does not compare the uid. Without the version, a patch for a deleted object would change a new object
        of the same name.

        Raises ObjectGoneError, or ObjectChangedError if the object has another version or is another one.
        """
        target = target_of(kind, namespace, name, "status")
        request = ApiRequest(
            "PATCH",
            target,
            body={"metadata": {"resourceVersion": resource_version}, "status": status},
            content_type=MERGE_PATCH,
            accept=_METADATA_ONLY,
        )
        answer = await self._transport.call(request, review_right=True)
        return version_of(answer, target)

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None:
        """Delete exactly this object at exactly this version.

        Raises ObjectGoneError, or ObjectChangedError if the object has another version or is another one.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        request = ApiRequest(
            "DELETE", target_of(kind, namespace, name), body={"preconditions": preconditions}
        )
        await self._transport.call(request, review_right=True)

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        """Return the object as it is now. Raises ObjectGoneError."""
        return await self._transport.call(ApiRequest("GET", target_of(kind, namespace, name)))

    async def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the objects page by page. Only one page is in memory; pages with large objects are shorter.

        If a list takes so long that its continue token expires, it begins again, so objects may occur twice.
        A namespace that may not be read does not prevent the others from being listed; its error is raised at
        the end. Raises NotServedError when the API server does not serve the kind.
        """
        if kind not in self._selection.kinds:
            return
        refusal: RequestRefusedError | None = None
        for namespace in self._selection.namespaces or (None,):
            try:
                async for page in self._pages(target_of(kind, namespace), field_selector, page_size):
                    yield [body for body in page if self._selection.has(body)]
                    del page  # a variable would keep it in memory until the next page is there
            except RequestRefusedError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    async def _pages(
        self, target: Target, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        continuation: str | None = ""
        limit = page_size
        while continuation is not None:
            query = {"fieldSelector": field_selector, "limit": str(limit), "continue": continuation}
            if (selector := self._selection.shard_selector) is not None:
                query["shardSelector"] = selector
            try:
                answer = await self._transport.call(
                    ApiRequest("GET", target, query=query),
                    # A page of one object has no limit here, because the API server limits its size.
                    max_bytes=self._max_page_bytes if limit > 1 else None,
                    repeated=True,
                )
            except AnswerTooLargeError:
                limit = max(1, limit // 4)
                continue
            except ObjectGoneError as error:
                if not continuation or isinstance(error, NotServedError):
                    raise
                continuation = ""
                continue
            continuation = metadata_of(answer, target).get("continue") or None
            items = items_of(answer, target)
            del answer
            yield items
            del items  # as above
            limit = min(page_size, limit * 2)
