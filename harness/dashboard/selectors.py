"""Reads which series an expression selects, with a parser of PromQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import promql_parser

_HISTOGRAM: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Matcher:
    """A condition on a label of a series."""

    label: str
    value: str
    is_pattern: bool


@dataclass(frozen=True)
class Selector:
    """A name of a series, and the conditions on its labels.

    ``is_range`` tells samples over a time from single ones. ``grouped_by`` are the labels of the aggregation
    that is next to it.
    """

    series: str
    matchers: tuple[Matcher, ...]
    is_range: bool
    grouped_by: frozenset[str]

    @property
    def metric(self) -> str:
        """The name under which the metric is declared, if it is a histogram of ours."""
        for suffix in _HISTOGRAM:
            if self.series.endswith(suffix):
                return self.series.removesuffix(suffix)
        return self.series


class _Reader:
    """Notes the selectors of an expression while it is walked through."""

    def __init__(self) -> None:
        self.found: list[Selector] = []
        self._groupings: list[frozenset[str]] = [frozenset()]
        self._is_range = False

    def enter(self, node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            self._groupings.append(frozenset(node.modifier.labels if node.modifier else ()))
        if isinstance(node, promql_parser.VectorSelector):
            self.found.append(self._selector(node))
        # The selector of a range is visited right after the range.
        self._is_range = isinstance(node, promql_parser.MatrixSelector)

    def leave(self, node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            self._groupings.pop()

    def _selector(self, node: promql_parser.VectorSelector) -> Selector:
        patterns = (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
        matchers = [Matcher(each.name, each.value, each.op in patterns) for each in node.matchers.matchers]
        return Selector(str(node.name), tuple(matchers), self._is_range, self._groupings[-1])


def selectors(expression: str) -> list[Selector]:
    """Return the selectors of an expression, in their order; it has a range in place of a variable.

    Raises:
        ValueError: it is no PromQL.
    """
    reader = _Reader()
    promql_parser.walk(promql_parser.parse(expression), reader.enter, reader.leave)
    return reader.found


def metrics_of(expressions: Sequence[str]) -> list[str]:
    """Return the names of the metrics that expressions select, each once, in their order."""
    return list(dict.fromkeys(each.metric for text in expressions for each in selectors(text)))
