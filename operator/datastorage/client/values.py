"""Reads single values of an answer. Another version of the server, or a stranger, may have sent any JSON.

All functions raise KeyError, TypeError or ValueError for a value that is not as it must be.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Any, Final

from datastorage.records.times import time_of

TEXT: Final = (str,)
TEXT_OR_NULL: Final = (str, NoneType)
NUMBER_OR_NULL: Final = (int, float, NoneType)
INTEGER: Final = (int,)
BOOLEAN: Final = (bool,)
BOOLEAN_OR_NULL: Final = (bool, NoneType)


def value_in(item: Mapping[str, Any], name: str, types: tuple[type, ...]) -> Any:
    """Return the value of a field, which has one of the types. A truth value is no number."""
    value = item[name]
    if type(value) not in types:
        raise TypeError(f"{name}: {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: {value}")
    return value


def time_in(item: Mapping[str, Any], name: str) -> datetime:
    """Return the time in a field, in UTC."""
    time = time_of(item[name])
    if time is None:
        raise ValueError(f"{name}: no time")
    return time
