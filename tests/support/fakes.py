"""A cluster and an archive in memory, for tests of what lies between them.

They keep the promises of the real ones that the pipeline relies on: optimistic locking, deletion
preconditions, idempotent storing. Each call can be made to fail.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from datastorage.errors import (
    ObjectChangedError,
    ObjectGoneError,
    RecordRefusedError,
    RequestRefusedError,
    WorkRefusedError,
)
from datastorage.pipeline.groups import Groups
from datastorage.pipeline.item import Outcome
from datastorage.pipeline.statusqueue import StatusQueue, StatusUpdate
from datastorage.records.record import Record, RecordKey, StoredRecord, Table
from datastorage.resilience.breaker import Breaker
from datastorage.resources.kinds import ResourceKind
from harness.objects import kind_of

STORED_AT = datetime(2026, 3, 5, 10, 20, 31, tzinfo=UTC)


class FakeCluster:
    """Objects by kind, namespace and name. ``calls`` has what was asked for, in order."""

    def __init__(self, *bodies: Mapping[str, Any]) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.failures: list[Exception] = []
        self.refused_patches: set[ResourceKind] = set()
        self.kind_failures: dict[ResourceKind, Exception] = {}
        self.page_gate: asyncio.Semaphore | None = None
        self.pages_given = 0
        self._versions = itertools.count(1000)
        for body in bodies:
            self.add(body)

    def add(self, body: Mapping[str, Any]) -> None:
        """Add an object, or replace the one with its name."""
        metadata = body["metadata"]
        self.objects[kind_of(body).plural, metadata["namespace"], metadata["name"]] = dict(body)

    def named(self, verb: str) -> list[str]:
        """Return the names of the objects for which a verb was called, in order."""
        return [call[1] for call in self.calls if call[0] == verb]

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def _find(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        try:
            return self.objects[kind.plural, namespace, name]
        except KeyError:
            raise ObjectGoneError("not found") from None

    async def patch_status(
        self, kind: ResourceKind, namespace: str, name: str, *, resource_version: str,
        status: Mapping[str, Any],
    ) -> str:  # fmt: skip
        self.calls.append(("patch_status", name))
        self._fail()
        if kind in self.refused_patches:
            raise RequestRefusedError("forbidden")
        body = self._find(kind, namespace, name)
        if body["metadata"]["resourceVersion"] != resource_version:
            raise ObjectChangedError("conflict")
        version = str(next(self._versions))
        merged = {k: v for k, v in {**body.get("status", {}), **status}.items() if v is not None}
        self.add({**body, "metadata": {**body["metadata"], "resourceVersion": version}, "status": merged})
        return version

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, *, uid: str, resource_version: str
    ) -> None:
        self.calls.append(("delete", name))
        self._fail()
        metadata = self._find(kind, namespace, name)["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (uid, resource_version):
            raise ObjectChangedError("conflict")
        del self.objects[kind.plural, namespace, name]

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> dict[str, Any]:
        self.calls.append(("get", name))
        self._fail()
        return self._find(kind, namespace, name)

    async def pages(
        self, kind: ResourceKind, *, field_selector: str, page_size: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        self.calls.append(("list", kind.plural, field_selector))
        self._fail()
        if kind in self.kind_failures:
            raise self.kind_failures[kind]
        terms = [term.partition("=") for term in field_selector.split(",")]
        found = [
            body
            for (plural, _, _), body in self.objects.items()
            if plural == kind.plural
            and all(
                (_field(body, path.removesuffix("!")) == wanted) is not path.endswith("!")
                for path, _, wanted in terms
            )
        ]
        for start in range(0, len(found), page_size):
            if self.page_gate is not None:
                await self.page_gate.acquire()
            self.pages_given += 1
            yield found[start : start + page_size]


def _field(body: Mapping[str, Any], path: str) -> Any:
    return reduce(lambda value, name: value.get(name, {}), path.split("."), body)


class FakeArchive:
    """Rows in memory. ``bad`` names records that can't be stored; ``failures`` come first, one a call."""

    def __init__(self, *, bad: frozenset[str] = frozenset()) -> None:
        self.rows: dict[RecordKey, StoredRecord] = {}
        self.rejected: dict[RecordKey, str] = {}
        self.batches: list[int] = []
        self.failures: list[Exception] = []
        self.bad = bad

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def store(self, records: Sequence[Record]) -> list[StoredRecord]:
        self.batches.append(len(records))
        await asyncio.sleep(0)
        self._fail()
        if any(record.name in self.bad for record in records):
            raise RecordRefusedError("the value is out of range")
        for record in records:
            self.rows.setdefault(record.key, StoredRecord(record.content_hash, STORED_AT))
        return [self.rows[record.key] for record in records]

    store_bare = store

    async def reject(self, record: Record, reason: str) -> None:
        self._fail()
        self.rejected[record.key] = reason

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> dict[RecordKey, StoredRecord]:
        assert isinstance(table, Table)
        self._fail()
        return {key: self.rows[key] for key in keys if key in self.rows}


class FakeRejected:
    """Knows the keys that are rejected still."""

    def __init__(self, *keys: RecordKey) -> None:
        self.keys = set(keys)

    async def find(self, table: Table, keys: Sequence[RecordKey]) -> set[RecordKey]:
        assert isinstance(table, Table)
        return self.keys & set(keys)


class Answer(asyncio.Future[Outcome]):
    """The origin of a record that is not in the cluster; it keeps the outcome."""

    async def committed(self, outcome: Outcome) -> None:
        self.set_result(outcome)

    def given_up(self, reason: str) -> None:
        self.set_exception(WorkRefusedError(reason))


class KeptUpdates(StatusQueue):
    """Keeps the status updates that are queued; nothing writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[StatusUpdate] = []

    async def put(self, update: StatusUpdate) -> None:
        self.queued.append(update)

    def outcomes(self) -> dict[str, Outcome]:
        """Return the outcomes by the names of the objects, each of which was queued once."""
        outcomes = {update.version.ref.name: update.outcome for update in self.queued}
        assert len(outcomes) == len(self.queued)
        return outcomes


class Probe:
    """A dependency that is asked whether it serves again. It fails as long as there are errors."""

    def __init__(self) -> None:
        self.asked = 0
        self.errors: list[Exception] = []

    async def __call__(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)


def no_groups(breaker: Breaker) -> Groups:
    """Return the storing of groups for tests that store none."""
    return Groups(writer=_NoGroups(), rehearse=_NoGroups().rehearse, breaker=breaker)


class _NoGroups:
    async def store(self, records: Sequence[Record], *, whole: bool) -> list[StoredRecord]:
        raise AssertionError((records, whole))

    store_bare = store

    async def rehearse(self, records: Sequence[Record]) -> None:
        raise AssertionError(records)
