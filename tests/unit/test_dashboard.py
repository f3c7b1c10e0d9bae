"""The dashboard asks for series that exist, and Grafana's own library understands what is made from it."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import generate_latest

from datastorage.metrics import CHAPTERS, REGISTRY, Declared
from harness import REPOSITORY
from harness.dashboard.files import DASHBOARD, files
from harness.dashboard.model import CHOSEN, Panel, Query
from harness.dashboard.page import BEGIN, END, panels_page
from harness.dashboard.selectors import Selector, selectors
from harness.dashboard.table import PANELS
from harness.generated import stale
from harness.rules.model import Alert
from harness.rules.objectives import OBJECTIVES
from harness.rules.rendering import Rendering, all_alerts

DECLARED = {metric.name: metric for chapter in CHAPTERS for metric in chapter.metrics}
ALERTS = all_alerts()
QUERIES = [
    pytest.param(query, id=f"{panel.title}: {query.legend}") for panel in PANELS for query in panel.queries
]
OF_TARGETS = {"job", "namespace", "pod", "instance"}
"""The labels that Prometheus adds."""


def declared(selector: Selector) -> Declared | None:
    """Return the declaration of a metric; None if every process has it."""
    found = DECLARED.get(selector.series) or DECLARED.get(selector.metric)
    if found is None:
        assert selector.series.startswith("process_")
        assert f"\n{selector.series} " in generate_latest(REGISTRY).decode()
        return None
    assert (selector.series == found.name) is (found.type != "histogram")
    return found


def labels_of(selector: Selector) -> set[str]:
    metric = declared(selector)
    own = set() if metric is None else {label.name for label in metric.labels}
    return OF_TARGETS | own | ({"le"} if selector.series.endswith("_bucket") else set())


@pytest.mark.parametrize("query", QUERIES)
def test_an_expression_asks_for_declared_metrics_by_declared_labels(query: Query) -> None:
    asked = selectors(query.of(CHOSEN, "5m"))
    assert asked
    for selector in asked:
        labels = labels_of(selector)
        assert {matcher.label for matcher in selector.matchers} <= labels
        assert selector.grouped_by <= labels
    # A line has the labels of what stands first: what it is divided by has fewer.
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= asked[0].grouped_by


@pytest.mark.parametrize("query", QUERIES)
def test_an_expression_asks_for_values_that_a_label_may_have(query: Query) -> None:
    for selector in selectors(query.of("", "5m")):
        metric = declared(selector)
        possible = {} if metric is None else {label.name: label.values for label in metric.labels}
        for matcher in selector.matchers:
            pattern = matcher.value if matcher.is_pattern else re.escape(matcher.value)
            values = [str(value) for value in possible[matcher.label]]
            assert not values or any(re.fullmatch(pattern, value) for value in values)


@pytest.mark.parametrize("query", QUERIES)
def test_rates_are_of_counters_and_levels_of_gauges(query: Query) -> None:
    for selector in selectors(query.of("", "5m")):
        metric = declared(selector)
        if metric is None:
            assert selector.is_range is selector.series.endswith("_total")
        else:
            assert selector.is_range is (metric.type in {"counter", "histogram"})


@pytest.mark.parametrize("query", QUERIES)
def test_every_selector_is_narrowed_by_the_choices_of_the_reader(query: Query) -> None:
    for selector in selectors(query.of(CHOSEN, "5m")):
        assert {"job", "namespace", "pod"} <= {matcher.label for matcher in selector.matchers}
        if selector.series == "datastorage_lease_held":
            assert "lease" in {matcher.label for matcher in selector.matchers}


def judged(alert: Alert) -> str:
    """Return what an alert compares with: of a budget, what its objective calls a failure."""
    objectives = {each.alert: each.failed for each in OBJECTIVES}
    return objectives.get(alert.name, Rendering().expression(alert.expression))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_the_lines_of_a_panel_are_the_limits_of_its_alerts(panel: Panel) -> None:
    known = {alert.name for alert in ALERTS}
    assert set(panel.alerts) <= known
    texts = [judged(alert) for alert in ALERTS if alert.name in panel.alerts]
    for limit in panel.limits if panel.alerts else ():
        sign = ">" if limit.beyond == "above" else "<"
        line = re.compile(rf'{sign} {limit.value:g}(?![\d.])|le="{limit.value:.1f}"')
        assert any(line.search(text) for text in texts)


def test_every_alert_about_metrics_is_seen_on_some_panel() -> None:
    # Without a replica there is nothing to show.
    assert {alert.name for alert in ALERTS} - {name for panel in PANELS for name in panel.alerts} == {
        "DataStorageAbsent"
    }


def test_every_panel_is_explained() -> None:
    assert len({panel.title for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel.meaning.endswith(".")
        assert panel.normal.endswith(".")


def made() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files()[DASHBOARD])
    return found


def test_the_files_are_made_from_the_table() -> None:
    assert stale(files()) == []


def test_grafanas_library_reads_all_of_the_dashboard() -> None:
    """A field that it does not know, or a wrong one, would be gone."""
    register_default_plugins()
    read = Dashboard.from_json(made())
    assert json.loads(JSONEncoder().encode(read)) == made()


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = made()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_variable_that_is_used_is_defined_before_it_is_used() -> None:
    text = files()[DASHBOARD]
    variables = made()["templating"]["list"]
    names = [each["name"] for each in variables]
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == set(names)
    for number, each in enumerate(variables):
        assert set(re.findall(r"\$\{?([a-z]\w*)", str(each.get("query")))) <= set(names[:number])


def test_links_lead_to_sections_that_exist() -> None:
    panels = made()["panels"]
    links = [link["url"] for panel in panels for link in panel.get("links", [])]
    assert links
    for url in [*links, *(link["url"] for link in made()["links"])]:
        path, _, section = url.removeprefix("${docs}/").partition("#")
        text = (REPOSITORY / "docs" / path).read_text()
        assert not section or re.search(rf"^#+ `?{section}`?$", text, re.MULTILINE | re.IGNORECASE)


def test_the_page_keeps_what_is_written_by_hand() -> None:
    page = panels_page(f"# Mine\n\n{BEGIN}\nOld.\n{END}\n\nMy end.\n")
    assert page.startswith(f"# Mine\n\n{BEGIN}\n\n## Errors\n")
    assert page.endswith(f"{END}\n\nMy end.\n")
    assert "Old." not in page
    with pytest.raises(ValueError, match="no place"):
        panels_page("# Mine\n")
