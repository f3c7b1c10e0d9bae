"""How often Python looks for garbage: objects that refer to each other in a circle and that nobody needs.

Few objects here end that way; all others are freed as soon as nobody refers to them. But each full look walks
through all objects of the process, and most of them (modules, classes, schemas) live until its end.
"""

import gc
from typing import Final

# Python's own first number is 700: it looks at the newest objects after so many new ones, at those that have
# outlived this after 20 such looks, and at the oldest ones after 20 of those.
_THRESHOLDS: Final = (20_000, 20, 20)


def collect_seldom() -> None:
    """Look for garbage seldom from now on. Loading the operator alone makes some 200,000 objects."""
    gc.set_threshold(*_THRESHOLDS)


def spare_what_is_loaded() -> None:
    """Look for garbage once, and never again among the objects that are left."""
    gc.collect()
    gc.freeze()
