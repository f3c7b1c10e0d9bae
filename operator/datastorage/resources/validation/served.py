"""The form in which the API server serves a value that it was given.

A record must have the same canonical bytes whether it came through the cluster or not.
"""

from decimal import Decimal
from typing import Any, Final

# Go writes a float below this without an exponent, so that a whole one reads back as an integer.
_FIRST_WITH_EXPONENT: Final = 1e21


def as_served(value: Any) -> Any:
    """Return a copy of a JSON value in which whole floats are integers, as the API server writes them."""
    root = [value]
    # A list of open branches instead of recursion: values may be nested some thousand levels deep.
    branches: list[Any] = [root]
    while branches:
        holder = branches.pop()
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(item, float):
                holder[key] = whole(item)
            elif isinstance(item, dict | list):
                holder[key] = item.copy()
                branches.append(holder[key])
    return root[0]


def whole(number: float) -> int | float:
    """Return the number that a float reads back as.

    Go writes its shortest digits and fills up with zeros: 2.0**63 becomes 9223372036854776000.
    """
    if number.is_integer() and abs(number) < _FIRST_WITH_EXPONENT:
        return int(Decimal(repr(number)))
    return number
