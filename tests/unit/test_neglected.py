"""The first shard also takes objects of other shards that nobody has processed for a while."""

import math
from typing import Any

import pytest

from datastorage.pipeline.neglected import Limits, Neglected
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.selection import Selection

_SHARDS = 3
_LIMITS = Limits(patience_seconds=300.0, most=20)
_FIRST = Selection(shard=0, shards=_SHARDS)


class _Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.serving_since = -math.inf
        self.neglected = Neglected(
            _FIRST, _LIMITS, serving_since=lambda: self.serving_since, clock=lambda: self.now
        )

    def listed(self, *bodies: Any) -> list[Any]:
        self.neglected.begin([AUDIT_RECORD])
        return self.neglected.choose(AUDIT_RECORD, bodies)


def _body(uid: str, version: str = "1") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


def _bodies(*, of_the_first: bool, count: int) -> list[dict[str, Any]]:
    bodies = (_body(f"uid-{number}") for number in range(100 * count))
    return [body for body in bodies if _FIRST.has(body) is of_the_first][:count]


_OWN = _bodies(of_the_first=True, count=2)
_FOREIGN = _bodies(of_the_first=False, count=2)


def test_own_objects_are_taken_at_once_and_others_when_they_stay_as_they_are() -> None:
    bench = _Bench()
    assert bench.listed(*_OWN, *_FOREIGN) == _OWN
    bench.now = _LIMITS.patience_seconds - 1
    assert bench.listed(*_FOREIGN, *_OWN) == _OWN
    bench.now += 1
    assert bench.listed(*_OWN, *_FOREIGN) == [*_OWN, *_FOREIGN]


def test_an_object_that_changed_or_went_is_not_neglected() -> None:
    bench = _Bench()
    changed, gone = _FOREIGN
    bench.listed(changed, gone)
    bench.now = _LIMITS.patience_seconds - 1
    changed = _body(changed["metadata"]["uid"], version="2")
    assert bench.listed(changed) == []
    bench.now = _LIMITS.patience_seconds
    assert bench.listed(changed, gone) == []
    bench.now = 2 * _LIMITS.patience_seconds - 1
    assert bench.listed(changed, gone) == [changed]


def test_a_listing_of_one_kind_forgets_nothing_of_the_other() -> None:
    bench = _Bench()
    bench.listed(*_FOREIGN)
    bench.neglected.begin([ACTION_TRACE])
    bench.now = _LIMITS.patience_seconds
    assert bench.listed(*_FOREIGN) == _FOREIGN


def test_what_is_remembered_is_bounded_and_all_get_their_turn() -> None:
    bench = _Bench()
    waiting = _bodies(of_the_first=False, count=3 * _LIMITS.most)
    rounds = 0
    while waiting:
        taken = bench.listed(*waiting)
        assert len(taken) <= _LIMITS.most
        waiting = [body for body in waiting if body not in taken]
        bench.now += _LIMITS.patience_seconds
        rounds += 1
        assert rounds <= 10


@pytest.mark.parametrize("phase", ["Recording", "Degraded", "Rejected"])
def test_objects_that_wait_for_nothing_take_no_room_and_are_not_neglected(phase: str) -> None:
    bench = _Bench()
    settled = _bodies(of_the_first=False, count=_LIMITS.most + 2)
    *settled, waiting, changed = settled
    for body in (*settled, changed):
        body["metadata"]["generation"] = 1
        body["status"] = {"phase": phase, "observedGeneration": 1}
    changed["metadata"]["generation"] = 2
    bench.listed(*settled, waiting, changed)
    bench.now = _LIMITS.patience_seconds
    assert bench.listed(*settled, waiting, changed) == [waiting, changed]


def test_waiting_while_the_archive_takes_nothing_in_is_no_neglect() -> None:
    bench = _Bench()
    bench.listed(*_FOREIGN)
    bench.now = 2 * _LIMITS.patience_seconds
    bench.serving_since = math.inf
    assert bench.listed(*_FOREIGN) == []
    bench.serving_since = bench.now
    bench.now += _LIMITS.patience_seconds - 1
    assert bench.listed(*_FOREIGN) == []
    bench.now += 1
    assert bench.listed(*_FOREIGN) == _FOREIGN


def test_a_malformed_object_does_no_harm() -> None:
    bench = _Bench()
    odd: list[Any] = [None, 3, "x", [], {}, {"metadata": None}, {"metadata": [1]}, {"metadata": {"uid": 3}}]
    for body in odd:
        bench.listed(body)
