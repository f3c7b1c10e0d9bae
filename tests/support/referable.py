"""Lists of objects, of which a test can see whether anything still holds them."""

import weakref
from collections.abc import Sequence
from typing import Any

from harness.objects import audit_record


class _Body(dict[str, Any]):
    """A plain dict allows no weak reference."""


class Referable:
    """A page with one object. Only a weak reference to the object is kept."""

    def __init__(self) -> None:
        self._body: weakref.ref[_Body] | None = None

    def made(self) -> list[dict[str, Any]]:
        """Return the page, to be called once."""
        body = _Body(audit_record())
        self._body = weakref.ref(body)
        return [body]

    @property
    def is_alive(self) -> bool:
        """Whether the page was made, and anything holds its object."""
        return self._body is not None and self._body() is not None


def alive(pages: Sequence[Referable]) -> int:
    """Return how many of the pages something still holds."""
    return sum(page.is_alive for page in pages)
