"""The files of the repository that are made from the table of panels."""

from pathlib import Path
from typing import Final

from harness import REPOSITORY
from harness.dashboard.grafana import dashboard_json
from harness.dashboard.page import panels_page

DASHBOARD: Final = Path("manifests", "monitoring", "dashboard", "dashboard.json")
PAGE: Final = Path("docs", "operations", "dashboard.md")


def files() -> dict[Path, str]:
    """Return the text of each file, by its path in the repository; the page keeps what is written by hand."""
    return {
        DASHBOARD: dashboard_json(),
        PAGE: panels_page((REPOSITORY / PAGE).read_text(encoding="utf-8")),
    }
