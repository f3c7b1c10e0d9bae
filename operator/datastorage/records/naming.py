"""How many records or texts are named one by one to a person, out of many."""

from typing import Final

MAX_NAMED: Final = 50
"""At most; the others are only counted. A longer list would not be read."""
