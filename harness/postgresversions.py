"""The PostgreSQL servers that the wheel carries."""

from typing import Final

OLDEST: Final = 16  # the oldest that the program supports
NEWEST: Final = 18
