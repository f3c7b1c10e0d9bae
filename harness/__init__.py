"""Code that tests, benchmarks and examples share: servers, processes, clients, builders of objects.

A module belongs here if two of them need it. Assertions, scenarios and figures stay with their users.
"""

from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
"""The folder of the checkout."""
