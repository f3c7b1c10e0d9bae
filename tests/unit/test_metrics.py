"""Declarations of metrics: only declared series exist, and several components may share a gauge."""

import pytest
from prometheus_client import Gauge

from datastorage.metrics import Combined, Share, UndeclaredSeriesError
from datastorage.metrics.declaring import About, Chapter, Family, Word, by, known_later, words

ABOUT = About("Nothing", "0.", "up")
LATER = About("Nothing", "0.", "up", appears="Later.")


class Colour(Word):
    """The values of a label."""

    RED = "red", "as blood"
    BLUE = "blue", "as the sky"


class Size(Word):
    """The values of another label."""

    SMALL = "small", "not large"
    LARGE = "large", "not small"


def value(family: Family[Gauge, str], *labels: str) -> float:
    return float(family.labels(*labels)._value.get())


@pytest.fixture
def chapter(request: pytest.FixtureRequest) -> Chapter:
    return Chapter(request.node.name)


def test_all_series_of_closed_labels_are_there_at_once(chapter: Chapter) -> None:
    family = chapter.counters("made_at_once_total", by(words("colour", Colour), words("size", Size)), ABOUT)
    assert set(family.combinations) == {
        ("red", "small"), ("red", "large"), ("blue", "small"), ("blue", "large"),
    }  # fmt: skip
    assert family.most == 4
    family.labels(Colour.RED, Size.LARGE).inc()
    assert family.labels(Colour.RED, Size.LARGE)._value.get() == 1


def test_a_word_that_is_not_declared_is_refused(chapter: Chapter) -> None:
    family = chapter.gauges("refuses_words", by(words("colour", Colour)), ABOUT)
    for refused in ("green", "Red", ""):
        with pytest.raises(UndeclaredSeriesError):
            family.labels(refused)  # type: ignore[arg-type]
        with pytest.raises(UndeclaredSeriesError):
            family.declare(refused)  # type: ignore[arg-type]
    with pytest.raises(UndeclaredSeriesError):
        family.labels()  # type: ignore[call-arg]
    assert len(family.combinations) == 2


def test_series_that_are_known_later_exist_once_they_are_declared(chapter: Chapter) -> None:
    family = chapter.gauges("declared_later", by(known_later("lease", "somewhere")), LATER)
    assert family.combinations == []
    with pytest.raises(UndeclaredSeriesError):
        family.labels("a")
    family.declare("a").set(2)
    family.declare("a")
    assert value(family, "a") == 2
    assert family.most == 1


def test_closed_labels_may_appear_later_too(chapter: Chapter) -> None:
    family = chapter.gauges("closed_and_later", by(words("colour", Colour)), LATER)
    assert family.combinations == []
    assert family.most == 2
    family.declare(Colour.BLUE)
    assert family.combinations == [("blue",)]


def test_a_gauge_is_the_sum_of_its_shares(chapter: Chapter) -> None:
    gauge = chapter.gauge("depth", ABOUT)
    first, second = Share(gauge), Share(gauge)
    first.set(3)
    second.set(4)
    first.set(1)
    assert gauge._value.get() == 5
    second.close()
    assert gauge._value.get() == 1
    second.close()
    assert gauge._value.get() == 1


def test_a_gauge_that_is_read_combines_its_components(chapter: Chapter) -> None:
    family = chapter.gauges("combined", by(words("colour", Colour)), ABOUT)
    total = Combined(family.labels(Colour.RED), sum)
    greatest = Combined(family.labels(Colour.BLUE), max)

    def read() -> list[float]:
        return [sample.value for metric in family._metric.collect() for sample in metric.samples]

    assert read() == [0, 0]
    for gauge in (total, greatest):
        gauge.add(two)
        gauge.add(three)
    assert read() == [5, 3]
    for gauge in (total, greatest):
        gauge.remove(three)
    assert read() == [2, 2]


def two() -> float:
    return 2.0


def three() -> float:
    return 3.0
