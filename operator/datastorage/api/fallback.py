"""The requests that are answered with 202 while PostgreSQL is away: their records become custom resources.

These are the requests that may be sent again and whose whole content an object can have. The API server makes
the uid of an object, and its name contains the identifier of the request.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from datastorage.api.results import Accepted
from datastorage.errors import OverloadedError, StorageAwayError, TransientError
from datastorage.records.record import Claim, Record
from datastorage.resources.kinds import LEGAL_HOLD_LABEL

_log = logging.getLogger(__name__)

_HINT: Final = (
    "only a single record is created as a custom resource meanwhile, sent with an Idempotency-Key and "
    "without metadata.uid, metadata.name, metadata.ownerReferences and a legal hold"
)
_OWN_METADATA: Final = ("uid", "name", "ownerReferences")


class Fallback(Protocol):
    """Where objects are created for requests (pipeline/fallback.py)."""

    async def create(self, metadata: Mapping[str, Any], spec: Mapping[str, Any], claim: Claim) -> str: ...


def not_created(away: StorageAwayError) -> TransientError:
    """Return the error for a request whose record does not become a custom resource."""
    return TransientError(f"{away}; {_HINT}")


async def accept(
    fallback: Fallback, away: StorageAwayError, body: Mapping[str, Any], record: Record
) -> Accepted:
    """Create the record of a request as a custom resource.

    ``body`` is the checked body of a single record. Raises TransientError if it is not created, and
    IdentifierReusedError if the identifier belongs to another one.
    """
    metadata = body["metadata"]
    has_own = any(metadata.get(field) for field in _OWN_METADATA)
    if record.claim is None or has_own or LEGAL_HOLD_LABEL in (metadata.get("labels") or {}):
        raise not_created(away)
    try:
        name = await fallback.create(metadata, body["spec"], record.claim)
    except OverloadedError as error:
        raise OverloadedError(f"{away}; {error}") from error
    except TransientError as error:
        raise TransientError(f"{away}; {error}") from error
    # The object does not say who has sent the request.
    _log.info(
        "Request accepted as a custom resource",
        extra={
            "object_namespace": metadata["namespace"],
            "object_name": name,
            "user": record.recorded_by,
        },
    )
    return Accepted(metadata["namespace"], name)
