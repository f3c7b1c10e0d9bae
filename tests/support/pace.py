"""Paces for tests: without pauses, with short ones, and so long that nothing happens by itself."""

from typing import Final

from datastorage.resilience.breaker import Pace

AT_ONCE: Final = Pace(first=0.0)
"""Probes follow without a pause."""
SOON: Final = Pace(first=0.01)
"""Probes follow within moments, and leave the machine to others in between."""
NEVER: Final = Pace(first=10_000.0, max=10_000.0)
"""No probe comes while a test lasts."""
