"""The table of the rules is complete, speaks of metrics that exist, and the files are made from it."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from datastorage.metrics import REGISTRY
from harness import REPOSITORY
from harness.generated import stale
from harness.prometheus.programs import ensure_prometheus
from harness.rules.files import RUNBOOK_PAGE, files
from harness.rules.model import Alert, Recording, seconds
from harness.rules.rendering import Rendering, all_alerts, all_groups, yaml_text
from harness.rules.runbook import runbook_page

RULES = [rule for group in all_groups() for rule in group.rules]
ALERTS = all_alerts()
_METRIC = re.compile(r"\b(datastorage_\w+)\{\$own(?:,([^}]*))?\}")
_MATCHER = re.compile(r'(\w+)(=|!=|=~|!~)"([^"]*)"')
_PARTS = ["What it means", "How to see it", "What to do", "It is over when"]
# Their series come with the settings of a replica, and with its first look.
_LATER = {"datastorage_dependency_up", "datastorage_guard_in_force", "datastorage_lease_held"}


def matches(labels: Mapping[str, str], matchers: str) -> bool:
    """Return whether the labels of a series are those that a selector asks for."""
    for name, operator, value in _MATCHER.findall(matchers):
        equal = re.fullmatch(value if "~" in operator else re.escape(value), labels.get(name, ""))
        if bool(equal) == operator.startswith("!"):
            return False
    return True


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_selects_series_that_are_there_from_the_start(rule: Alert | Recording) -> None:
    exposed = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    samples = [sample for family in exposed for sample in family.samples]
    for name, matchers in _METRIC.findall(rule.expression):
        if name not in _LATER:
            assert any(each.name == name and matches(each.labels, matchers) for each in samples), name
    recorded = {each.name for each in RULES if isinstance(each, Recording)}
    assert set(re.findall(r"namespace_job:\S+", rule.expression)) <= recorded


def test_every_name_of_a_metric_selects_its_own_installation() -> None:
    for rule in RULES:
        names = re.findall(r"\bdatastorage_\w+", re.sub(r"namespace_job:\S+", "", rule.expression))
        assert len(names) == len(_METRIC.findall(rule.expression)), rule.name


def test_alerts_have_the_names_and_texts_that_people_expect() -> None:
    assert len({alert.key for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert re.fullmatch(r"DataStorage[A-Z]\w+", alert.name)
        assert not alert.summary.endswith(".")
        assert alert.description.endswith(".")
        assert alert.meaning.endswith(".")


def test_nobody_waits_longer_for_what_is_critical() -> None:
    for alert in ALERTS:
        assert seconds(alert.lasting) <= (900 if alert.severity == "critical" else 10_800)


def test_the_files_are_made_from_the_table() -> None:
    assert stale(files()) == []


def test_a_page_gets_a_section_for_a_new_alert_and_loses_that_of_an_old_one() -> None:
    page = files()[RUNBOOK_PAGE]
    renamed = page.replace("## DataStorageAbsent\n", "## DataStorageOnceCalled\n")
    again = runbook_page(renamed)
    assert "DataStorageOnceCalled" not in again
    assert "## DataStorageAbsent\n" in again
    assert runbook_page(page) == page


def test_promtool_accepts_the_rules_as_they_are_and_shortened(tmp_path: Path) -> None:
    shortened = Rendering(factor=1 / 1000, shortest_range=3, shortest_wait=1)
    for name, rendering in {"as-they-are": Rendering(), "shortened": shortened}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml_text({"groups": rendering.groups()}))
    command = [str(ensure_prometheus().promtool), "check", "rules", "--lint=all", "--lint-fatal"]
    done = subprocess.run(
        [*command, *map(str, tmp_path.glob("*.yaml"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_all_times_are_shortened_but_not_below_the_shortest() -> None:
    quick = Rendering(own="", each="job", factor=1 / 60, shortest_range=6, shortest_wait=2)
    assert quick.expression("rate(x[5m]) > $seconds(15m)") == "rate(x[6000ms]) > 15"
    assert quick.expression("rate(x[1h]) > $seconds(1m)") == "rate(x[60000ms]) > 6"
    assert Rendering(share=0.2).expression("x > $events(20)") == "x > 4"
    rules = {rule["alert"]: rule for group in quick.groups() for rule in group["rules"] if "alert" in rule}
    assert rules["DataStoragePostgreSQLFailure"]["for"] == "2000ms"
    assert rules["DataStorageHighWriteErrorRate"]["for"] == "5000ms"
    assert "for" not in rules["DataStorageRecordRejected"]


def test_every_section_of_the_runbook_has_the_same_four_parts() -> None:
    """What it means, how to see it, what to do, and how to know that it is over; the last with commands."""
    _, *sections = re.split(
        r"^## (?=DataStorage)", (REPOSITORY / RUNBOOK_PAGE).read_text(), flags=re.MULTILINE
    )
    assert [section.partition("\n")[0] for section in sections] == list(dict.fromkeys(a.name for a in ALERTS))
    for section in sections:
        name, *parts = re.split(r"^\*\*(?=[A-Z])", section, flags=re.MULTILINE)
        titles = [re.match(r"[\w ]+", part) for part in parts]
        assert [title and title[0] for title in titles] == _PARTS, name.partition("\n")[0]
        assert all("\n$ " in parts[number] for number in (1, 3)), name.partition("\n")[0]
