"""Each alert fires after its time and not before, says what it should, and ends after the repair."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.rules.alerts import alerts
from harness.rules.model import Alert, seconds
from harness.rules.objectives import budget_alerts, recordings
from harness.rules.rendering import RUNBOOK, all_alerts
from tests.rules.promtool import Expected, Firing, played
from tests.rules.stories import STORIES, Story

ALERTS = {alert.key: alert for alert in all_alerts()}
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
_VALUE = re.compile(r"\{\{ \$value [^}]*\}\}|\{\{ \$value \}\}")


def spoken(template: str, labels: Mapping[str, str], value: str) -> str:
    """Return what Prometheus makes of a template of an alert."""
    named = _LABEL.sub(lambda match: labels[match[1]], template)
    return _VALUE.sub(value, named)


def read(alert: Alert, labels: Mapping[str, str], value: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of an alert that fires, and what a person reads."""
    texts = {"summary": alert.summary, "description": alert.description}
    return (
        {**labels, "severity": alert.severity, "component": "datastorage"},
        {
            **{name: spoken(text, labels, value) for name, text in texts.items()},
            "runbook_url": f"{RUNBOOK}#{alert.name.lower()}",
        },
    )


def firing(story: Story, at: str) -> Firing:
    alert = ALERTS[story.alert]
    found = [read(alert, story.labels, story.value)]
    if story.also is not None:
        windows = {name: story.also[name] for name, _ in alert.labels}
        [other] = [
            each for each in ALERTS.values() if (each.name, dict(each.labels)) == (alert.name, windows)
        ]
        found.append(read(other, story.also, story.value))
    return Firing(at, alert.name, found)


def test_every_alert_has_a_story() -> None:
    assert list(dict.fromkeys(story.alert for story in STORIES)) == list(ALERTS)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.alert)
def test_an_alert_fires_after_its_time_and_ends_after_the_repair(story: Story, tmp_path: Path) -> None:
    alert, step = ALERTS[story.alert], seconds(story.step)
    begins = (story.phases.before + story.late) * step
    fires = begins + seconds(alert.lasting)
    repaired = (story.phases.before + story.phases.during) * step
    own = ",".join(f'{name}="{value}"' for name, value in alert.labels)
    seen = f'count by (alertstate) (ALERTS{{alertname="{alert.name}",{own}}}) > bool 0'
    shown = [
        Expected(f"{begins - step}s", seen),
        Expected(f"{repaired + story.lasts * step}s", seen),
    ]
    if fires > begins:
        shown.append(Expected(f"{begins}s", seen, [{"alertstate": "pending"}]))
        shown.append(Expected(f"{fires - step}s", seen, [{"alertstate": "pending"}]))
    about_budgets = {group.name for group in (recordings(), budget_alerts())}
    without = {alerts().name} if alert.labels else about_budgets
    texts = [firing(story, f"{fires}s")]
    assert played(tmp_path, story.values, story.step, shown, texts, without=without) == ""
