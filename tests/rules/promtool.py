"""Runs promtool on rules and on the tests that the stories are made into."""

import json
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.prometheus.programs import ensure_prometheus
from harness.rules.rendering import Rendering, yaml_text
from tests.rules.series import Values, input_series

_SECONDS = 60.0


@dataclass(frozen=True)
class Expected:
    """What an expression gives at a time: the labels of each series, or none. All values are 1."""

    at: str
    expression: str
    labels: Sequence[dict[str, str]] = ()


@dataclass(frozen=True)
class Firing:
    """All alerts of a name that fire at a time: the labels of each, and what a person reads."""

    at: str
    alert: str
    found: Sequence[tuple[dict[str, str], dict[str, str]]] = ()


def played(
    folder: Path,
    values: Values,
    interval: str,
    expected: Sequence[Expected] = (),
    firing: Sequence[Firing] = (),
    *,
    rendering: Rendering | None = None,
    without: Collection[str] = (),
) -> str:
    """Let promtool evaluate the rules over the series; return what it complains of, or nothing.

    ``without`` names groups that do not matter: most of the time goes into evaluating rules.
    """
    rules, test = folder / "rules.yaml", folder / "test.yaml"
    groups = [each for each in (rendering or Rendering()).groups() if each["name"] not in without]
    rules.write_text(yaml_text({"groups": groups}))
    test.write_text(json.dumps(_test(rules, groups, values, interval, expected, firing)))
    command = [str(ensure_prometheus().promtool), "test", "rules", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _test(
    rules: Path,
    groups: Sequence[dict[str, Any]],
    values: Values,
    interval: str,
    expected: Sequence[Expected],
    firing: Sequence[Firing],
) -> dict[str, Any]:
    return {
        "rule_files": [str(rules)],
        "evaluation_interval": interval,
        # What is recorded comes first; Prometheus itself may evaluate a group one interval later.
        "group_eval_order": [group["name"] for group in groups],
        "tests": [
            {
                "interval": interval,
                "input_series": input_series(values),
                "promql_expr_test": [
                    {
                        "expr": each.expression,
                        "eval_time": each.at,
                        "exp_samples": [{"labels": _selector(labels), "value": 1} for labels in each.labels],
                    }
                    for each in expected
                ],
                "alert_rule_test": [
                    {
                        "eval_time": each.at,
                        "alertname": each.alert,
                        "exp_alerts": [
                            {"exp_labels": labels, "exp_annotations": texts} for labels, texts in each.found
                        ],
                    }
                    for each in firing
                ],
            }
        ],
    }


def _selector(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
