"""What every scene of the demo uses."""

from dataclasses import dataclass

from examples.demo.checks import Checks
from examples.demo.monitoring import Monitoring
from examples.demo.narrator import Narrator
from examples.demo.observer import Observer
from examples.demo.services import Services
from examples.demo.stage import Stage


@dataclass(frozen=True)
class Demo:
    """Everything that the scenes of the demo use.

    `monitoring` is None if there is no Prometheus; `ttl` is in seconds.
    """

    narrator: Narrator
    checks: Checks
    stage: Stage
    services: Services
    observer: Observer
    monitoring: Monitoring | None
    ttl: int
