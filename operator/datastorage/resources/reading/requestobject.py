"""The objects that stand for requests, which came while PostgreSQL was away.

The name of such an object is its request's identifier, whatever the type: the API server lets no second
object have the name. A name never changes, and only the creator of an object chooses it: nobody can make
another object stand for a request. The content of the request is read from the object itself. So a person who
creates such an object by hand gains nothing that a request would not give.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from datastorage.records.canonical import canonical_bytes
from datastorage.records.hashes import sha256
from datastorage.records.record import Claim
from datastorage.resources.kinds import LEGAL_HOLD_LABEL, RECORDED_BY_ANNOTATION

GIVEN_METADATA: Final = ("name", "namespace", "uid", "labels", "annotations", "ownerReferences")
"""What a client may say of its record besides the spec. The rest of an object's metadata is the server's."""
_PREFIX: Final = "idempotency-key-"
_NAME: Final = re.compile(rf"{_PREFIX}([0-9a-f]{{64}})")


def name_of(identifier_hash: bytes) -> str:
    """Return the name of the object that stands for a request with this identifier."""
    return f"{_PREFIX}{identifier_hash.hex()}"


def stands_for_request(name: str) -> bool:
    """Whether an object may stand for a request, by its name alone."""
    return name.startswith(_PREFIX)


def request_hash(metadata: Mapping[str, Any], spec: Any) -> bytes:
    """Return the hash of what a request says: its fields of ``GIVEN_METADATA``, and the spec."""
    return sha256(canonical_bytes({"metadata": dict(metadata), "spec": spec}))


def claim_of(body: Mapping[str, Any]) -> Claim | None:
    """Return the claim of an object that stands for a request; None for any other object."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    found = _NAME.fullmatch(metadata["name"])
    if found is None:
        return None
    # The client gave no name, and the API server has made the uid.
    given = {
        field: metadata[field] for field in ("namespace", "labels", "ownerReferences") if metadata.get(field)
    }
    annotations = {
        k: v for k, v in (metadata.get("annotations") or {}).items() if k != RECORDED_BY_ANNOTATION
    }
    if annotations:
        given["annotations"] = annotations
    if LEGAL_HOLD_LABEL in given.get("labels", ()):
        # It has to stay in the cluster, so it must not be equal to a request, whose object would be deleted.
        given["name"] = metadata["name"]
    return Claim(bytes.fromhex(found[1]), request_hash(given, spec))
