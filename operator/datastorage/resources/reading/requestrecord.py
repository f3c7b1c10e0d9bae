"""Turns a request's body into the record that an object of the same content would become.

The identity of the record (its uid and time of creation) is made here, since no API server gives it one.
"""

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, Final

from datastorage.records.hashes import sha256
from datastorage.records.record import Claim, Record, Via
from datastorage.records.times import rfc3339
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.fields import storable
from datastorage.resources.reading.objectrecord import record_of
from datastorage.resources.reading.requestobject import GIVEN_METADATA, request_hash

_NAME_DIGITS: Final = 12
_UUID_BYTES: Final = 10  # the random ones, with some bits too many


class _Clock:
    """Gives a time only once, so that two requests never get the same key."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """Return the time, or the next free microsecond if the clock has stood still or was set back."""
        with self._lock:
            self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            # Objects of the cluster have whole seconds. A record of a request must not have an object's key.
            if not self._last.microsecond:
                self._last += timedelta(microseconds=1)
            return self._last


_CLOCK: Final = _Clock()


class _RandomBytes:
    """Random bytes of the kernel, asked for in blocks: each call lets another thread of the process run."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left = b""

    def take(self) -> bytes:
        with self._lock:
            if len(self._left) < _UUID_BYTES:
                self._left = os.urandom(512 * _UUID_BYTES)
            taken, self._left = self._left[:_UUID_BYTES], self._left[_UUID_BYTES:]
            return taken


_RANDOM: Final = _RandomBytes()


def record_of_request(
    body: Mapping[str, Any],
    *,
    recorded_by: str,
    idempotency_key: str | None = None,
    namespace_created_at: datetime | None = None,
    now: datetime | None = None,
    with_text: bool,
) -> Record:
    """Turn the valid body of a request into a record.

    ``recorded_by`` is the authenticated name of the caller. The client's ``metadata.uid`` or, without one,
    ``idempotency_key`` is the identifier under which the request may be sent again; without either, each
    request makes a new record. ``namespace_created_at`` is None where this is not known.
    """
    given = {field: body["metadata"][field] for field in GIVEN_METADATA if body["metadata"].get(field)}
    spec = body["spec"]
    if "uid" in given:  # in whatever spelling, the request is the same
        given["uid"] = str(uuid.UUID(given["uid"]))
    uid = given["uid"] if "uid" in given else str(uuid7())
    # With microseconds, unlike an object's: the same uid in another namespace is another record, and must not
    # have the same key.
    created_at = now or _CLOCK.now()
    metadata = {
        **given,
        "uid": uid,
        "name": given.get("name") or f"{spec['type'].lower()}-{uid.replace('-', '')[-_NAME_DIGITS:]}",
        "creationTimestamp": rfc3339(created_at),
        "generation": 1,
        "resourceVersion": "0",
    }
    record = record_of(AUDIT_RECORD, {"metadata": metadata, "spec": spec}, with_text=with_text)
    identifier = f"uid:{uid}" if "uid" in given else f"key:{idempotency_key}"
    if namespace_created_at is not None:
        # A namespace of the same name may have belonged to others before: their identifiers are free.
        identifier = f"{rfc3339(namespace_created_at)} {identifier}"
    claim = None
    if "uid" in given or idempotency_key is not None:
        claim = Claim(sha256(identifier.encode()), request_hash(given, spec))
    return replace(record, via=Via.API, recorded_by=storable(recorded_by), claim=claim)


def uuid7() -> uuid.UUID:
    """Return a new UUID of version 7 (RFC 9562, section 5.7): in the order of time, for the index's sake."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(_RANDOM.take())
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
