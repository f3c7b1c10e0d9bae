"""Enlarges the interpreter's stack for JSON that is nested as deeply as the API server accepts."""

import json
import logging
import resource
import sys
from typing import Final

from datastorage.records.canonical import canonical_bytes

_log = logging.getLogger(__name__)

# The API server accepts JSON up to 10,000 levels deep. One such object must not end the watch of all others,
# nor be unreadable in the archive. The parser needs this many levels and this much stack.
_DEEPEST_JSON: Final = 10_010
_RECURSION_LIMIT: Final = 60_000
STACK_BYTES: Final = 100 * 1024 * 1024


def make_room_for_deep_json() -> None:
    """Give the main thread room for JSON of any depth that the API server accepts, before the loop runs."""
    sys.setrecursionlimit(_RECURSION_LIMIT)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    try:
        canonical_bytes(json.loads("[" * _DEEPEST_JSON + "]" * _DEEPEST_JSON))
    except RecursionError:
        # Some versions of Python limit the parser by a constant that can't be changed here.
        _log.warning(
            "This Python can't read JSON that is nested as deeply as the API server accepts: such an object "
            "would end the watch of all others, and can't be shown. Python 3.11 can read it."
        )
