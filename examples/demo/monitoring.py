"""A Prometheus that reads the operator's metrics, and evaluates the shipped rules with shortened times."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from examples.demo.narrator import Narrator
from harness.controlplane.errors import BuildError
from harness.operatorprocess import OperatorProcess
from harness.prometheus.episodes import Episode, episodes_of
from harness.prometheus.programs import ensure_prometheus_alone
from harness.prometheus.servers import Prometheus, Reading
from harness.rules.rendering import Rendering, yaml_text

# A minute becomes a second: an outage that people watch is over in some seconds.
SHORTENED: Final = 60
RULES: Final = Rendering(factor=1 / SHORTENED, shortest_range=5, shortest_wait=1)
READING: Final = Reading(scrape="500ms", evaluation="500ms")
STEP: Final = 0.5  # seconds; what is shown is as exact as what is read
READ: Final = "datastorage_build_info"  # a series that every reading has


@dataclass(frozen=True)
class Monitoring:
    """The Prometheus, and since when it reads (in seconds since 1970)."""

    prometheus: Prometheus
    since: float

    def check(self) -> None:
        """Raise ComponentError if it has ended by itself."""
        self.prometheus.check()

    def episodes(self) -> list[Episode]:
        """Return when alerts were pending, fired and ended so far.

        Before the first reading, some seconds after the start, the operator seems to be absent: that is left
        out.
        """
        read = self.prometheus.client.query_range(READ, since=self.since, step=STEP)
        first = min((moment for line in read for moment, _ in line["values"]), default=math.inf)
        found = episodes_of(self.prometheus.client, since=self.since, step=STEP)
        return [each for each in found if each.begin > first]

    def latest(self, alert: str) -> Episode:
        """Return the latest episode of an alert; one without times if there was none."""
        return next((each for each in reversed(self.episodes()) if each.alert == alert), Episode(alert))


def find_prometheus(narrator: Narrator) -> Path | None:
    """Return the program, which is built if that was never done; without it, say why it is left out."""
    try:
        with narrator.timed("Prometheus was built"):
            return ensure_prometheus_alone()  # says on standard error what it builds
    except BuildError as error:
        narrator.say(f"Without Prometheus, which can't be built here: {str(error).splitlines()[-1]}")
        return None


@contextmanager
def monitoring(
    narrator: Narrator, program: Path | None, directory: Path, operator: OperatorProcess
) -> Iterator[Monitoring | None]:
    """Read the metrics of an operator that runs until the block ends; None without a Prometheus."""
    if program is None:
        yield None
        return
    narrator.say("Starting Prometheus, with the shipped rules of the alerts")
    narrator.say(f"(All their times are {SHORTENED} times shorter here: what takes a minute takes a second)")
    with Prometheus(program, directory / "prometheus", yaml_text({"groups": RULES.groups()}), READING) as own:
        began = time.time()
        own.read({operator.metrics_target: {}})
        yield Monitoring(own, began)


def clock(moment: float | None) -> str:
    """Return the local time of day of a moment in seconds since 1970."""
    return "" if moment is None else f"{datetime.fromtimestamp(moment).astimezone():%H:%M:%S}"
