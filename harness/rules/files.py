"""The files of the repository that are made from the rules."""

from pathlib import Path
from typing import Any, Final

from harness import REPOSITORY
from harness.rules.rendering import Rendering, yaml_text
from harness.rules.runbook import alerts_table, runbook_page

PROMETHEUS_RULE: Final = Path("manifests", "monitoring", "prometheusrule.yaml")
PLAIN_RULES: Final = Path("manifests", "monitoring", "plain", "rules.yaml")
RUNBOOK_PAGE: Final = Path("docs", "operations", "runbook.md")
MONITORING_PAGE: Final = Path("docs", "operations", "monitoring.md")

_NAMESPACE: Final = "datastorage-system"
INSTALLED: Final = Rendering(own=f'namespace="{_NAMESPACE}",job="datastorage"')
"""For the Prometheus Operator: it gives each series its namespace, and the name of the Service as its job."""
_GENERATED: Final = "# Made from harness/rules by `make rules`; `make lint` holds it.\n"
_ABOUT_INSTALLED: Final = """\
# The rules are about the Service datastorage in datastorage-system. For another namespace, change it in the
# expressions too, or use the chart, which does so. The links lead to docs/operations/runbook.md: give them
# the address at which your readers find that page.
"""
_ABOUT_PLAIN: Final = """\
# For a Prometheus without the Prometheus Operator: name this file under rule_files, and call the job that
# reads the metrics datastorage. docs/operations/monitoring.md shows both. The links of the alerts lead to
# docs/operations/runbook.md: give them the address at which your readers find it.
"""


def files() -> dict[Path, str]:
    """Return the text of each file, by its path in the repository; pages keep what is written by hand."""
    return {
        PROMETHEUS_RULE: _GENERATED + _ABOUT_INSTALLED + yaml_text(prometheus_rule()),
        PLAIN_RULES: _GENERATED + _ABOUT_PLAIN + yaml_text({"groups": Rendering().groups()}),
        RUNBOOK_PAGE: runbook_page((REPOSITORY / RUNBOOK_PAGE).read_text(encoding="utf-8")),
        MONITORING_PAGE: alerts_table((REPOSITORY / MONITORING_PAGE).read_text(encoding="utf-8")),
    }


def prometheus_rule() -> dict[str, Any]:
    """Return the object of the Prometheus Operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "datastorage",
            "namespace": _NAMESPACE,
            "labels": {"app.kubernetes.io/name": "datastorage"},
        },
        "spec": {"groups": INSTALLED.groups()},
    }
