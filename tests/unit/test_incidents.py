"""Records of one incident lift each other, and come together on a page."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from datastorage.query.fusion import Fused
from datastorage.query.incidents import leading, lifted, page_of
from datastorage.query.searchresult import FoundBy
from datastorage.records.record import RecordKey, Table
from datastorage.storage.matches import Match
from datastorage.storage.places import Place

KEY = RecordKey("a", 1, datetime(2026, 3, 5, tzinfo=UTC), b"1")
_WORDS = (FoundBy.WORDS,)


def hit(name: str, score: float, clue_weight: float = 0, similarity: float | None = None) -> Fused:
    place = Place(Table.AUDIT_RECORDS, replace(KEY, uid=name))
    return Fused(Match(place, None, 0, clue_weight, similarity), score, _WORDS)


def name_of(hit: Fused) -> str:
    return hit.match.place.key.uid


def incidents_of(incidents: dict[str, str]) -> dict[Place, str]:
    return {hit(name, 0).match.place: incident for name, incident in incidents.items()}


def scores(found: list[Fused]) -> dict[str, float]:
    return {name_of(each): each.score for each in found}


@st.composite
def found_with_incidents(draw: st.DrawFn) -> tuple[list[Fused], dict[Place, str]]:
    """Some hits, few of them with a clue, in a few incidents or in none."""
    found = [
        hit(f"h{number}", score, weight)
        for number, (score, weight) in enumerate(
            draw(st.lists(st.tuples(st.floats(0, 0.99), st.sampled_from([0, 0, 0, 1, 1.5])), max_size=25))
        )
    ]
    drawn = {name_of(each): draw(st.sampled_from(["", "rr-1", "rr-2", "rr-3"])) for each in found}
    return found, incidents_of({name: incident for name, incident in drawn.items() if incident})


def test_a_hit_gets_half_of_its_distance_to_the_best_of_its_incident() -> None:
    found = [hit("weak", 0.2), hit("other", 0.4), hit("alone", 0.3), hit("best", 0.8)]
    after = lifted(found, incidents_of({"weak": "rr-1", "best": "rr-1", "other": "rr-2"}))
    assert scores(after) == {"best": 0.8, "weak": 0.5, "other": 0.4, "alone": 0.3}
    assert [name_of(each) for each in after] == ["best", "weak", "other", "alone"]
    assert {name_of(each): each.found_by for each in after} == {
        "best": _WORDS, "weak": (*_WORDS, FoundBy.INCIDENT), "other": _WORDS, "alone": _WORDS,
    }  # fmt: skip


def test_a_lift_that_changes_nothing_is_not_mentioned() -> None:
    found = [hit("best", 0.8), hit("weak", 0.2), hit("other", 0.1)]
    after = lifted(found, incidents_of({"weak": "rr-1", "best": "rr-1"}))
    assert scores(after)["weak"] == 0.5
    assert [each.found_by for each in after] == [_WORDS] * 3


def test_those_that_only_the_lift_gives_a_score_are_in_the_order_of_meaning() -> None:
    found = [hit("far", 0, similarity=-0.1), hit("nearer", 0, similarity=0.1), hit("without", 0)]
    after = lifted([*found, hit("best", 0.8)], incidents_of(dict.fromkeys(("far", "nearer", "best"), "rr-1")))
    assert [name_of(each) for each in after] == ["best", "nearer", "far", "without"]


def test_a_hit_that_neither_meaning_nor_words_have_found_is_there_for_its_incident() -> None:
    """Even behind all others it says so: it would not be there otherwise."""
    along = replace(hit("along", 0), found_by=())
    after = lifted(
        [hit("best", 0.4), hit("other", 0.3), along], incidents_of({"best": "rr-1", "along": "rr-1"})
    )
    assert [(name_of(each), each.found_by) for each in after] == [
        ("best", _WORDS), ("other", _WORDS), ("along", (FoundBy.INCIDENT,)),
    ]  # fmt: skip


def test_the_leading_incidents_are_those_of_the_first_of_each_search() -> None:
    near = [hit(name, 0).match for name in ("a", "b", "c", "d", "alone", "late")]
    worded = [hit(name, 0).match for name in ("e", "a")]
    incidents = {"a": "rr-1", "b": "rr-2", "c": "rr-1", "late": "rr-3", "e": "rr-4"}
    assert leading([near, worded], incidents_of(incidents)) == ["rr-1", "rr-2", "rr-4"]
    assert leading([], {}) == []


def test_a_clue_lifts_its_record_alone() -> None:
    """It is no measure of how well the record answers the question."""
    found = [hit("clue", 0.2, clue_weight=1), hit("weak", 0.1), hit("near", 0.5)]
    after = lifted(found, incidents_of({"clue": "rr-1", "weak": "rr-1"}))
    assert [name_of(each) for each in after] == ["clue", "near", "weak"]
    assert scores(after)["weak"] < 0.2


@given(found_with_incidents())
def test_the_lift_keeps_what_else_is_known_of_the_order(given: tuple[list[Fused], dict[Place, str]]) -> None:
    found, incidents = given
    before, after = {name_of(each): each for each in found}, lifted(found, incidents)
    totals = [each.total for each in after]
    assert totals == sorted(totals, reverse=True)
    assert {name_of(each) for each in after} == set(before)
    # Whatever has a clue is still ahead of whatever has none.
    with_clue = [each.match.clue_weight > 0 for each in after]
    assert with_clue == sorted(with_clue, reverse=True)
    for each in after:
        place, own = each.match.place, before[name_of(each)].score
        of_incident = [other.score for other in found if incidents.get(other.match.place) ==
                       incidents.get(place)]  # fmt: skip
        assert own <= each.score <= max(of_incident)
        if place not in incidents:
            assert each.score == own


@given(found_with_incidents())
def test_incident_is_said_of_exactly_those_that_are_ahead_of_more(
    given: tuple[list[Fused], dict[Place, str]],
) -> None:
    found, incidents = given
    plain = [name_of(each) for each in lifted(found, {})]
    for rank, each in enumerate(lifted(found, incidents)):
        assert (FoundBy.INCIDENT in each.found_by) == (rank < plain.index(name_of(each)))


@given(found_with_incidents())
def test_other_incidents_do_not_matter(given: tuple[list[Fused], dict[Place, str]]) -> None:
    found, incidents = given
    one = [each for each in found if incidents.get(each.match.place) == "rr-1"]
    everything = scores(lifted(found, incidents))
    assert scores(lifted(one, incidents)).items() <= everything.items()


@given(found_with_incidents(), st.integers(1, 30))
def test_a_page_has_three_of_an_incident_at_most_and_has_them_together(
    given: tuple[list[Fused], dict[Place, str]], limit: int
) -> None:
    hits, incidents = lifted(*given), given[1]
    page = page_of(hits, incidents, limit)
    of_page = [incidents.get(each.match.place, each.match.place) for each in page]
    assert max(Counter(of_page).values(), default=0) <= 3
    with_clue = [each.match.clue_weight > 0 for each in page]
    assert with_clue == sorted(with_clue, reverse=True)
    # Among those with a clue, and among the others, each incident is one run.
    runs = [run for run, _ in groupby(zip(of_page, with_clue, strict=True))]
    assert len(runs) == len(set(runs))
    # The best of each incident are in order, and so is each incident.
    totals: dict[object, list[float]] = {}
    for incident, each in zip(of_page, page, strict=True):
        totals.setdefault(incident, []).append(each.total)
    firsts = [run[0] for run in totals.values()]
    assert firsts == sorted(firsts, reverse=True)
    assert all(run == sorted(run, reverse=True) for run in totals.values())


def test_what_has_a_clue_comes_before_the_rest_of_each_incident() -> None:
    hits = [
        hit("first", 0.9, clue_weight=1), hit("second", 0.5, clue_weight=1),
        hit("of-first", 0.4), hit("better", 0.3), hit("of-second", 0.2),
    ]  # fmt: skip
    incidents = incidents_of({"first": "rr-1", "of-first": "rr-1", "second": "rr-2", "of-second": "rr-2"})
    page = page_of(hits, incidents, 10)
    assert [name_of(each) for each in page] == ["first", "second", "of-first", "of-second", "better"]


@given(found_with_incidents(), st.integers(1, 30))
def test_a_page_has_the_best_that_the_limits_leave(
    given: tuple[list[Fused], dict[Place, str]], limit: int
) -> None:
    hits, incidents = lifted(*given), given[1]
    counts: Counter[object] = Counter()
    allowed = []
    for each in hits:
        incident = incidents.get(each.match.place, each.match.place)
        counts[incident] += 1
        if counts[incident] <= 3:
            allowed.append(name_of(each))
    assert sorted(map(name_of, page_of(hits, incidents, limit))) == sorted(allowed[:limit])
