"""The schedule of deletions: one entry per object, whose values come from one look at it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from datastorage.pipeline.clusterobject import Expiry, ref_of
from datastorage.pipeline.schedule import Limits, Schedule
from datastorage.resources.kinds import ACTION_TRACE
from harness.objects import action_trace, key_of_body

BODY = action_trace(name="trace")
REF, KEY = ref_of(ACTION_TRACE, BODY), key_of_body(BODY)
FIRST = Expiry(10.0, REF, KEY, "1")


def test_a_later_generation_replaces_key_time_and_version() -> None:
    schedule = Schedule()
    schedule.add(FIRST)
    later = Expiry(3600.0, REF, replace(KEY, generation=KEY.generation + 1), "2")
    schedule.add(later)
    assert schedule.next_due() == 3600.0
    assert schedule.pop_due(100.0) == []
    [popped] = schedule.pop_due(3600.0)
    assert (popped.due, popped.key, popped.resource_version) == (3600.0, later.key, "2")


def test_a_time_to_live_that_was_made_shorter_counts() -> None:
    schedule = Schedule()
    schedule.add(replace(FIRST, due=3600.0))
    schedule.add(replace(FIRST, due=5.0, resource_version="2"))
    assert [expiry.resource_version for expiry in schedule.pop_due(10.0)] == ["2"]
    assert schedule.pop_due(1e9) == []


def test_a_later_generation_that_is_due_at_the_same_time_takes_the_place() -> None:
    schedule = Schedule()
    schedule.add(FIRST)
    later = replace(FIRST, key=replace(KEY, generation=KEY.generation + 1), resource_version="2")
    schedule.add(later)
    [popped] = schedule.pop_due(10.0)
    assert (popped.key, popped.resource_version) == (later.key, "2")
    assert schedule.pop_due(10.0) == []


Looks = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 3)), max_size=40)


@given(looks=Looks, most=st.integers(1, 4))
def test_the_popped_entries_are_the_newest_of_each_object(
    looks: list[tuple[int, int, int]], most: int
) -> None:
    schedule = Schedule(Limits(most=most, kept=most))
    newest: dict[str, Expiry] = {}
    for version, (number, due, generation) in enumerate(looks):
        ref = replace(REF, uid=f"uid-{number}")
        key = replace(KEY, uid=ref.uid, generation=generation)
        expiry = Expiry(float(due), ref, key, str(version))
        schedule.add(expiry)
        newest[ref.uid] = expiry
    popped = []
    while batch := schedule.pop_due(100.0):
        popped += batch
    assert [expiry.due for expiry in popped] == sorted(expiry.due for expiry in popped)
    for expiry in popped:
        latest = newest[expiry.ref.uid]
        assert (expiry.due, expiry.key, expiry.resource_version) == (
            latest.due, latest.key, latest.resource_version,
        )  # fmt: skip
    assert len({expiry.ref.uid for expiry in popped}) == len(popped) <= most
    forgotten = newest.keys() - {expiry.ref.uid for expiry in popped}
    if forgotten:
        assert schedule.forgotten_due is not None
        assert schedule.forgotten_due <= min(newest[uid].due for uid in forgotten), "listed in time for all"
    else:
        assert schedule.forgotten_due is None


class Compared(Expiry):
    """An entry that counts how often it is compared."""

    count = 0

    def __lt__(self, other: Expiry) -> bool:
        Compared.count += 1
        return self.due < other.due


def test_replacing_the_entries_of_a_full_schedule_does_not_sort_it_each_time() -> None:
    """A listing reads each time in milliseconds, and so replaces the entry of each object."""
    most = 1000
    schedule = Schedule(Limits(most=most, kept=most - 100, replaced=100))

    def look(shift: float) -> None:
        for number in range(most):
            uid = f"uid-{number}"
            schedule.add(Compared(number + shift, replace(REF, uid=uid), replace(KEY, uid=uid), "1"))

    look(0.5)
    Compared.count = 0
    look(0.0)
    assert Compared.count < 100 * most, "ten times sorted, and not a thousand times"
    assert schedule.forgotten_due is None
    due = [expiry.due for _ in range(most) for expiry in schedule.pop_due(1e9)]
    assert due == list(range(most))
