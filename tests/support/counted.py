"""The values of the program's metrics, and what a test changes in them."""

from collections.abc import Iterator
from contextlib import contextmanager

from datastorage import metrics

Labels = tuple[str, ...]
"""The values of the labels, in the order of the labels' names."""


def series(sample: str) -> dict[Labels, float]:
    """Return the values of a sample (``…_total``, ``…_count``) by their labels."""
    return {
        tuple(found.labels[name] for name in sorted(found.labels)): found.value
        for family in metrics.REGISTRY.collect()
        for found in family.samples
        if found.name == sample
    }


@contextmanager
def changes(sample: str) -> Iterator[dict[Labels, float]]:
    """Give a dict, which holds after the block by how much each series has changed in it."""
    before, found = series(sample), dict[Labels, float]()
    yield found
    for labels, value in series(sample).items():
        if value != before.get(labels, 0.0):
            found[labels] = value - before.get(labels, 0.0)
