"""What pictures of the dashboard are drawn from, without the drawing itself."""

from math import isnan

import pytest

from harness import REPOSITORY
from harness.dashboard.answers import Line, Span, legend, promql
from harness.dashboard.files import PAGE
from harness.dashboard.legends import Names, highest_first, in_legend
from harness.dashboard.model import Limit, Query, Unit
from harness.dashboard.page import picture
from harness.dashboard.scales import Stretch, beyond, stretches, top, with_gaps, words
from harness.dashboard.shown import Outage, Shown, outages_of
from harness.dashboard.table import PANELS, ROWS
from harness.prometheus.episodes import Episode

MOST_BYTES = 600_000
"""Everybody who clones the repository fetches the pictures, and those that they replace."""
WARNING = Limit(5, "warning")
CRITICAL = Limit(300, "critical")


@pytest.mark.parametrize(
    ("unit", "value", "written"),
    [
        (Unit.SHARE, 0.5, "50%"),
        (Unit.SHARE, 0.005, "0.5%"),
        (Unit.BYTES, 200 * 2**20, "200 MiB"),
        (Unit.SECONDS, 0.02, "20 ms"),
        (Unit.SECONDS, 0, "0 s"),
        (Unit.SECONDS, 1.5, "1.5 s"),
        (Unit.RECORDS_A_SECOND, 12.5, "12.5"),
    ],
)
def test_values_have_their_units(unit: Unit, value: float, written: str) -> None:
    assert words(unit, value) == written


def test_a_scale_reaches_above_its_values_and_limits_but_not_to_limits_far_away() -> None:
    assert 10 < top(10, ()) < 15
    assert 5 < top(2, (WARNING,)) < 10
    assert top(2, (WARNING, CRITICAL)) == top(2, (WARNING,))
    assert beyond(top(2, (WARNING, CRITICAL)), (WARNING, CRITICAL)) == [CRITICAL]
    assert top(0, ()) > 0


def test_a_line_is_broken_where_values_are_missing() -> None:
    found = with_gaps([(10, 1), (12, 2), (20, 3), (22, 4)], step=2)
    assert [moment for moment, _ in found] == [10, 12, 14, 20, 22]
    assert [value for _, value in found if not isnan(value)] == [1, 2, 3, 4]
    assert isnan(found[2][1])
    assert with_gaps([], step=2) == []


def test_stretches_end_where_the_value_changes_or_is_missing() -> None:
    values = [(10, 1), (12, 1), (14, 0), (16, 0), (18, 1), (30, 1)]
    assert list(stretches(values, step=2)) == [
        Stretch(10, 14, 1),
        Stretch(14, 18, 0),
        Stretch(18, 20, 1),
        Stretch(30, 32, 1),
    ]
    assert list(stretches([], step=2)) == []


def test_outages_are_those_of_servers_that_last() -> None:
    serving = [
        Line("redis", ((10, 1), (20, 0), (30, 0), (40, 1))),
        Line("postgres", ((10, 1), (20, 1), (30, 1), (40, 1))),
        Line("embedder", ((10, 1), (20, 0), (30, 1), (40, 1))),
        Line("audit_records", ((10, 0), (20, 0), (30, 0), (40, 0))),
    ]
    assert outages_of(serving, step=10) == [Outage("Redis", 20, 40)]


def test_a_legend_names_the_highest_lines_and_counts_the_others() -> None:
    lines = [Line("none", ()), Line("low", ((1, 1),)), Line("high", ((1, 5),)), Line("middle", ((1, 3),))]
    assert [line.name for line in highest_first(lines)] == ["high", "middle", "low"]
    room = {"width": 30.0, "letter": 1.0, "before": 4.0}
    assert in_legend(highest_first(lines), **room, rows=2) == Names(["high", "middle", "low"], 0, 2)
    assert in_legend(highest_first(lines), **room, rows=1) == Names(["high"], 2, 2)


def test_a_legend_leaves_out_what_was_0_all_the_time_unless_everything_was() -> None:
    room = {"width": 30.0, "letter": 1.0, "before": 4.0}
    flat = [Line("first", ((1, 0),)), Line("second", ((1, 0),))]
    assert in_legend([Line("high", ((1, 5),)), *flat], **room, rows=2) == Names(["high"], 2, 2)
    assert in_legend(flat, **room, rows=2) == Names(["first", "second"], 0, 2)


def test_a_panel_knows_when_its_alerts_fired() -> None:
    panel = next(panel for panel in PANELS if panel.title == "Dependencies")
    episodes = (
        Episode("DataStoragePostgreSQLFailure", (), 10, 20, 30),
        Episode("DataStorageVectorDBDegraded", (), 40, 50, None),
        Episode("DataStorageVectorDBDegraded", (), 35, None, 36),
        Episode("DataStorageStatusRefused", (), 10, 20, 30),
    )
    shown = Shown(Span(0, 60, "20s"), {}, (), episodes)
    assert shown.firing(panel) == [Stretch(20, 30, 1), Stretch(50, 60, 1)]


def test_a_question_has_everything_chosen_and_its_answer_is_named_as_in_grafana() -> None:
    query = Query("sum by (pod, status) (rate(some_total{$own}[$__rate_interval]))", "{{pod}} {{status}}")
    assert promql(query, "20s") == (
        'sum by (pod, status) (rate(some_total{job="datastorage",namespace=~".*",pod=~".*"}[20s]))'
    )
    assert legend(query, {"pod": "a", "status": "success"}) == "a success"
    assert legend(query, {"status": "success"}) == "success"


def test_every_row_has_a_picture_on_the_page() -> None:
    page = REPOSITORY / PAGE
    sizes = [(page.parent / picture(row)).stat().st_size for row in ROWS]
    assert 0 < sum(sizes) < MOST_BYTES
    assert all(f"]({picture(row)})" in page.read_text(encoding="utf-8") for row in ROWS)
