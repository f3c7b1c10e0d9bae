"""Judges how operators share the Leases of their shards."""

from collections.abc import Sequence


def are_shared_evenly(held: Sequence[set[str]], shards: int) -> bool:
    """Return whether every Lease has one holder, and the numbers of Leases differ by one at most.

    ``held`` are the names of the Leases that each operator holds.
    """
    counts = [len(leases) for leases in held]
    return len(set().union(*held)) == sum(counts) == shards and max(counts) - min(counts) <= 1


def changed_hands(before: Sequence[set[str]], after: Sequence[set[str]]) -> set[str]:
    """Return the Leases that an operator held before and does not hold now, or the other way round.

    Both list what each operator holds, in the same order of operators.
    """
    return set().union(*(first ^ second for first, second in zip(before, after, strict=True)))
