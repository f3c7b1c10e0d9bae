"""A request to the API server as a value: its target and its content.

This module knows the form of the API's paths, but no particular resource.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
# The verbs of RBAC.
_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object that an API server may serve."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request: one object, or all objects of a resource."""

    resource: Resource
    namespace: str | None = None
    """None for objects without a namespace, and for the objects of all namespaces."""
    name: str | None = None
    """None for all objects, and for an object that the API server does not store, such as a review."""
    subresource: str | None = None

    @property
    def collection(self) -> str:
        """The path of all objects, at which new ones are created."""
        resource = self.resource
        root = f"/apis/{resource.group}" if resource.group else "/api"
        scope = f"/namespaces/{quote(self.namespace)}" if self.namespace is not None else ""
        return f"{root}/{resource.version}{scope}/{resource.plural}"

    @property
    def path(self) -> str:
        """The path of the object, or of all objects."""
        name = f"/{quote(self.name)}" if self.name is not None else ""
        subresource = f"/{self.subresource}" if self.subresource is not None else ""
        return f"{self.collection}{name}{subresource}"

    def __str__(self) -> str:
        """Return the name in error messages, such as ``AuditRecord payments/x``."""
        if self.name is not None:
            return f"{self.resource.kind} {f'{self.namespace}/' if self.namespace else ''}{self.name}"
        return f"{self.resource.kind}{f' in namespace {self.namespace}' if self.namespace else ''}"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request and its JSON body."""

    method: str
    target: Target
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    content_type: str = JSON
    accept: str = JSON
    has_secret: bool = False
    """Whether the body contains a secret. Errors then do not quote the answer, which might repeat it."""

    @property
    def path(self) -> str:
        """The path with its query. A POST goes to the collection, because the name is in the body, or to a
        subresource.
        """
        creates_object = self.method == "POST" and self.target.subresource is None
        path = self.target.collection if creates_object else self.target.path
        return f"{path}?{urlencode(self.query)}" if self.query else path

    @property
    def verb(self) -> str:
        """The verb of the request in RBAC."""
        return "list" if self.method == "GET" and self.target.name is None else _VERBS[self.method]

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request itself."""
        return {"Accept": self.accept, "Content-Type": self.content_type}

    @property
    def payload(self) -> bytes | None:
        """The body as it is sent."""
        return json.dumps(self.body).encode() if self.body is not None else None
