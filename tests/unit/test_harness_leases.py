"""How the harness judges the Leases of operators."""

import pytest

from harness.leases import are_shared_evenly, changed_hands

BEFORE = ({"a"}, {"b"}, {"c"})


@pytest.mark.parametrize(
    ("after", "moved"),
    [
        (BEFORE, set()),
        (({"b"}, {"a"}, {"c"}), {"a", "b"}),  # evenly shared as before
        ((set(), {"a", "b"}, {"c"}), {"a"}),
        ((set(), {"b"}, {"c"}), {"a"}),
    ],
)
def test_leases_that_changed_hands(after: tuple[set[str], ...], moved: set[str]) -> None:
    assert changed_hands(BEFORE, after) == moved


def test_leases_that_are_shared_evenly() -> None:
    assert are_shared_evenly(BEFORE, 3)


@pytest.mark.parametrize(
    "held", [({"a"}, set(), {"c"}), ({"a", "b", "c"}, set(), set()), ({"a"}, {"a"}, {"c"})]
)
def test_leases_that_are_not(held: tuple[set[str], ...]) -> None:
    assert not are_shared_evenly(held, 3)
