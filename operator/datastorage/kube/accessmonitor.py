"""Knows whether the API server accepts who we are and lets us do what we ask for."""

from collections.abc import Iterator
from typing import Final

# Kinds and namespaces bound the number of rights; a status line has room for fewer.
_MOST_SHOWN: Final = 3


class AccessMonitor:
    """Told by the transport of each answer; asked by /ready.

    Only what is asked for again and again is noted, lists and watches: a note about anything else would
    stay when nothing repeats the request.
    """

    def __init__(self) -> None:
        self._credentials: str | None = None
        self._refused: dict[str, str] = {}

    def not_authenticated(self, why: str) -> None:
        """Note that there are no credentials, or that the API server does not accept them (401)."""
        self._credentials = why

    def forbidden(self, right: str, why: str) -> None:
        """Note that this right is missing (403)."""
        self._credentials = None
        self._refused[right] = why

    def accepted(self, right: str | None) -> None:
        """Note any other answer."""
        self._credentials = None
        if right is not None:
            self._refused.pop(right, None)

    def problem(self) -> str | None:
        """Say what the API server refuses; None when nothing."""
        if self._credentials is not None:
            return self._credentials
        return "; ".join(self._shown()) or None

    def _shown(self) -> Iterator[str]:
        for number, (right, why) in enumerate(sorted(self._refused.items())):
            if number == _MOST_SHOWN:
                yield f"and {len(self._refused) - number} more"
                return
            yield f"API server (403): no right to {right}: {why}"
