"""Draws the panels for their page: `make dashboard-images`, or `python -m harness.dashboard.pictures`.

Without an address it starts everything and makes an incident first, which takes about ten minutes.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final

from harness import REPOSITORY
from harness.dashboard.answers import Span
from harness.dashboard.drawing import draw_row
from harness.dashboard.incident import parts, play
from harness.dashboard.page import picture
from harness.dashboard.shown import shown
from harness.dashboard.table import ROWS
from harness.prometheus.client import PrometheusClient

_FOLDER: Final = Path("docs", "operations")
_INTERVAL: Final = "20s"
"""The range of rates; Grafana would choose four times the interval of the readings, at least."""
_STEP: Final = 2.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m harness.dashboard.pictures",
        description="Draws the panels of the dashboard for their page, from an incident that is made for it.",
    )
    parser.add_argument(
        "--prometheus", metavar="URL", help="draw what this Prometheus has, without an incident"
    )
    parser.add_argument("--since", type=float, metavar="TIME", help="in seconds since 1970")
    parser.add_argument("--until", type=float, metavar="TIME", help="in seconds since 1970")
    arguments = parser.parse_args()
    if arguments.prometheus:
        if arguments.since is None:
            parser.error("--prometheus needs --since")
        until = time.time() if arguments.until is None else arguments.until
        draw(PrometheusClient(arguments.prometheus), arguments.since, until)
    else:
        asyncio.run(_make_and_draw())


async def _make_and_draw() -> None:
    with tempfile.TemporaryDirectory(prefix="datastorage-incident-") as directory:
        async with parts(Path(directory)) as running:
            since = await play(running)
            await asyncio.to_thread(draw, running.prometheus.client, since, time.time())


def draw(prometheus: PrometheusClient, since: float, until: float) -> None:
    """Draw each row of the dashboard; times in seconds since 1970."""
    found = shown(prometheus, Span(since, until, _INTERVAL, _STEP))
    for row in ROWS:
        path = _FOLDER / picture(row)
        draw_row(row, found, REPOSITORY / path)
        print(f"wrote {path}, {(REPOSITORY / path).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
