"""Runs the operator with metrics that count nothing, so that a comparison shows what counting costs.

It is a program of its own: ``python benchmarks/uncounted.py run``.
"""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from datastorage.__main__ import run
from datastorage.metrics.declaring import Family


class _Nothing:
    """Takes the place of every series."""

    def inc(self, *_: Any) -> None: ...

    def dec(self, *_: Any) -> None: ...

    def set(self, *_: Any) -> None: ...

    def observe(self, *_: Any) -> None: ...


_NOTHING = _Nothing()


def _stop_counting() -> None:
    for kind in (Counter, Gauge, Histogram):
        for method in ("inc", "dec", "set", "observe"):
            if hasattr(kind, method):
                setattr(kind, method, getattr(_Nothing, method))
    Family.labels = lambda *_: _NOTHING  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    _stop_counting()
    run()
