"""The outcome of work that ran beside other work, as asyncio.gather returns it with ``return_exceptions``."""

from typing import TypeVar

T = TypeVar("T")


def value_or_raise(outcome: T | BaseException) -> T:
    """Return the result of the work, or raise its error."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
