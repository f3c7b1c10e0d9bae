"""The targets of requests for the two kinds."""

from datastorage.kube.apirequest import Resource, Target
from datastorage.resources.kinds import GROUP, VERSION, ResourceKind


def target_of(
    kind: ResourceKind, namespace: str | None, name: str | None = None, subresource: str | None = None
) -> Target:
    """Return the target of a request for objects of the kind, in a namespace or in all (None)."""
    return Target(Resource(GROUP, VERSION, kind.plural, kind.kind), namespace, name, subresource)
