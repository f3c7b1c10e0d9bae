"""What a search by meaning and one by words have found becomes one order."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.query.fusion import Fused, Scale, fuse
from datastorage.query.searchresult import FoundBy
from datastorage.records.record import RecordKey, Table
from datastorage.storage.matches import Background, Match, Similarities
from datastorage.storage.places import Place

BACKGROUND = Background(0.1, 0.08)
KEY = RecordKey("a", 1, datetime(2026, 3, 5, tzinfo=UTC), b"1")
ALL_WORDS = 1.0
cosines = st.floats(-1, 1)
parts = st.floats(0, 1)


def match(name: str, information: float = 0, similarity: float | None = None) -> Match:
    place = Place(Table.AUDIT_RECORDS, replace(KEY, uid=name))
    return Match(place, name.encode(), information=information, similarity=similarity)


def fused(
    near: dict[str, float], worded: dict[str, float], similarities: dict[str, float] | None = None
) -> dict[str, Fused]:
    found = fuse(
        [match(name, similarity=cosine) for name, cosine in near.items()],
        [match(*each) for each in worded.items()],
        Similarities({name.encode(): score for name, score in (similarities or {}).items()}, BACKGROUND),
    )
    return {each.match.place.key.uid: each for each in found}


def test_everything_found_is_in_it_once_with_its_reasons() -> None:
    found = fused({"a": 0.9, "b": 0.5}, {"b": 0.4, "c": 0.8, "d": 0.8}, {"c": 0.3})
    assert {name: (each.match.similarity, each.found_by) for name, each in found.items()} == {
        "a": (0.9, (FoundBy.MEANING,)),
        "b": (0.5, (FoundBy.MEANING, FoundBy.WORDS)),
        "c": (0.3, (FoundBy.WORDS,)),
        "d": (None, (FoundBy.WORDS,)),
    }
    assert fused({}, {}) == {}


def test_others_of_an_incident_count_by_their_meaning_unless_they_were_found() -> None:
    near, worded = [match("near", similarity=0.5)], [replace(match("words", ALL_WORDS), clue_weight=1.0)]
    others = [match(name) for name in ("near", "words", "nearer", "unknown")]
    similarities = Similarities({b"words": 0.1, b"nearer": 0.3}, BACKGROUND)
    found = {each.match.place.key.uid: each for each in fuse(near, worded, similarities, correlated=others)}
    alone = {each.match.place.key.uid: each for each in fuse(near, worded, similarities)}
    assert alone == {name: found[name] for name in ("near", "words")}
    assert {name: (each.match.similarity, each.found_by) for name, each in found.items() - alone.items()} == {
        "nearer": (0.3, ()), "unknown": (None, ()),
    }  # fmt: skip
    assert found["nearer"].score > found["unknown"].score == 0


def test_exact_words_are_ahead_unless_another_record_is_much_nearer() -> None:
    """All words are worth ten standard deviations beyond the noise."""
    near, nearest = (BACKGROUND.mean + (1.5 + each) * BACKGROUND.deviation for each in (9.9, 10.1))
    found = fused({"near": near, "nearest": nearest}, {"words": ALL_WORDS}, {"words": 0.2})
    scores = {name: each.score for name, each in found.items()}
    assert sorted(scores, key=lambda name: -scores[name]) == ["nearest", "words", "near"]


def test_a_record_without_a_vector_counts_as_one_picked_at_random() -> None:
    found = fused({}, {"without": 0.4, "average": 0.4}, {"average": BACKGROUND.mean})
    assert found["without"].score == found["average"].score


def test_a_text_that_is_hardly_nearer_than_random_is_worth_no_more_than_that() -> None:
    """The next text is nearer in every archive, so it says nothing about the question."""
    a_little, more = (BACKGROUND.mean + each * BACKGROUND.deviation for each in (1.4, 1.6))
    found = fused({"random": BACKGROUND.mean, "a little": a_little, "more": more}, {})
    scores = {name: each.score for name, each in found.items()}
    assert scores["more"] > scores["a little"] == scores["random"] == 0


def test_neither_the_length_of_a_record_nor_a_word_that_it_repeats_counts() -> None:
    short, long = match("short", 0.6), match("long", 0.6)
    found = fuse([], [replace(short, share=0.02), replace(long, share=0.005)], Similarities({}, BACKGROUND))
    assert len({each.score for each in found}) == 1


def test_a_text_that_is_very_far_is_no_worse_than_one_picked_at_random() -> None:
    """Where most texts are about one thing, others are further away than words could make up for."""
    found = fused({"near": 0.6}, {"far": ALL_WORDS, "random": ALL_WORDS}, {"far": -0.9, "random": 0.1})
    assert found["far"].score == found["random"].score


def test_a_few_words_are_worth_less_than_a_nearer_meaning() -> None:
    """All words are worth ten standard deviations: in proportion, a third would be worth three."""
    near = BACKGROUND.mean + (1.5 + 2.5) * BACKGROUND.deviation
    found = fused({"near": near}, {"few": ALL_WORDS / 3, "all": ALL_WORDS}, {"few": 0.1, "all": 0.1})
    scores = {name: each.score for name, each in found.items()}
    assert sorted(scores, key=lambda name: -scores[name]) == ["all", "near", "few"]


@given(parts, parts)
def test_a_part_of_the_words_is_worth_no_more_than_that_part_of_them_all(words: float, part: float) -> None:
    scale = Scale()
    assert scale.of_words(part * words) <= part * scale.of_words(words) + 1e-12
    assert scale.of_words(words / 2) < scale.of_words(words) / 2 or words < 1e-9


def test_another_scale_gives_another_order() -> None:
    near, worded = [match("near", similarity=0.5)], [match("words", ALL_WORDS / 2)]
    similarities = Similarities({b"words": 0.1}, BACKGROUND)
    scales = (Scale(), Scale(all_words=12), Scale(power=1), Scale(noise=3))
    best = [max(fuse(near, worded, similarities, each), key=lambda fused: fused.score) for each in scales]
    assert [each.match.place.key.uid for each in best] == ["near", "words", "words", "words"]


@given(cosines, cosines, parts, parts)
def test_more_of_either_is_never_worse(one: float, other: float, few: float, many: float) -> None:
    (one, other), (few, many) = sorted((one, other)), sorted((few, many))
    found = fused({"less": one, "nearer": other, "more": one}, {"less": few, "nearer": few, "more": many})
    assert found["less"].score <= found["nearer"].score
    assert found["less"].score <= found["more"].score
    assert all(0 <= each.score <= 1 for each in found.values())


@given(cosines, cosines, parts, parts, st.floats(0.1, 3), st.floats(-0.5, 0.5))
def test_a_model_with_other_cosines_gives_the_same_order(
    one: float, other: float, few: float, many: float, factor: float, shift: float
) -> None:
    """Some models have all cosines between 0.7 and 0.9."""

    def scores(factor: float, shift: float) -> list[float]:
        background = Background(factor * BACKGROUND.mean + shift, factor * BACKGROUND.deviation)
        near = [
            match(name, similarity=factor * cosine + shift) for name, cosine in (("a", one), ("b", other))
        ]
        found = fuse(near, [match("a", few), match("b", many)], Similarities({}, background))
        return [each.score for each in found]

    assert scores(factor, shift) == pytest.approx(scores(1.0, 0.0))
