"""The whole dashboard, in its order."""

from typing import Final

from harness.dashboard.asking import ASKING, ERRORS
from harness.dashboard.model import Panel, Row
from harness.dashboard.running import OPERATOR
from harness.dashboard.storing import STORING
from harness.dashboard.vectors import VECTORS

ROWS: Final[tuple[Row, ...]] = (ERRORS, STORING, VECTORS, ASKING, OPERATOR)
PANELS: Final[tuple[Panel, ...]] = tuple(panel for row in ROWS for panel in row.panels)
