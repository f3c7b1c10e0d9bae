"""Evaluates the CEL rules of a schema: the subset of CEL that the definitions use.

A rule that goes beyond the subset is an error when the schema is compiled, so that a new rule can never be
passed over. The subset is `||`, `&&`, `!`, comparisons, `in`, `has()`, `timestamp()`, fields, and literals.

A general CEL library would be larger and less exact: the API server compares times by the nanosecond and from
the year 0 on, and the libraries exchange times as Python's datetime.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datastorage.resources.validation.instants import nanoseconds_of

Schema = Mapping[str, Any]
_Evaluate = Callable[[Any], Any]

# CEL's operators, translated into those of Python with the same precedence: `~` binds as tightly as `!` does.
_OPERATORS: Final = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(\|\||&&|!(?!=))""")
_IN_PYTHON: Final = {"||": " or ", "&&": " and ", "!": "~"}

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
}


class _EvaluationError(Exception):
    """A field has no value, or none of its type. An `||` or `&&` may do without it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about a value, for its creation.

    ``pointer`` leads from the value to the field that a broken rule is reported for.
    """

    message: str
    pointer: str
    _evaluate: _Evaluate

    def holds(self, value: Any) -> bool:
        """Return whether a value obeys the rule. One that can't be evaluated is broken."""
        try:
            return self._evaluate(value) is True
        except _EvaluationError:
            return False


def creation_rules(schema: Schema) -> list[Rule]:
    """Return the rules of a schema that apply when an object is created: those without `oldSelf`.

    Raises NotImplementedError for a rule outside of the subset.
    """
    rules = []
    for rule in schema.get("x-kubernetes-validations", ()):
        tree = _parsed(rule["rule"])
        if any(isinstance(node, ast.Name) and node.id == "oldSelf" for node in ast.walk(tree)):
            continue
        if set(rule) - {"rule", "message", "fieldPath"}:
            raise NotImplementedError(f"a rule with other keys than these can't be evaluated: {rule}")
        pointer = rule.get("fieldPath", "").replace(".", "/")
        rules.append(Rule(rule["message"], pointer, _Compiler(schema).compiled(tree)))
    return rules


def _parsed(expression: str) -> ast.expr:
    translated = _OPERATORS.sub(lambda found: found[1] or _IN_PYTHON[found[2]], expression)
    try:
        return ast.parse(translated.strip(), mode="eval").body
    except SyntaxError as error:
        raise NotImplementedError(f"this CEL expression can't be evaluated: {expression}") from error


class _Compiler:
    """Compiles the expressions about one schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def compiled(self, node: ast.expr) -> _Evaluate:
        match node:
            case ast.BoolOp(ast.Or(), values):
                return _either([self.compiled(value) for value in values], decisive=True)
            case ast.BoolOp(ast.And(), values):
                return _either([self.compiled(value) for value in values], decisive=False)
            case ast.UnaryOp(ast.Invert(), operand):
                inner = self.compiled(operand)
                return lambda value: not inner(value)
            case ast.Compare(left, [comparison], [right]) if type(comparison) in _COMPARISONS:
                compare = _COMPARISONS[type(comparison)]
                one, other = self.compiled(left), self.compiled(right)
                return lambda value: compare(one(value), other(value))
            case ast.Call(ast.Name("has"), [ast.Attribute(parent, name) as field], []):
                self._schema_of(field)
                holder = self.compiled(parent)
                return lambda value: name in _mapping(holder(value))
            case ast.Call(ast.Name("timestamp"), [ast.Constant(str() as text)], []):
                instant = _instant(text)
                return lambda _: instant
            case ast.Constant(str() | int() as constant):
                return lambda _: constant
            case ast.List(items):
                members = [self.compiled(item) for item in items]
                return lambda value: [member(value) for member in members]
            case ast.Name("self"):
                return lambda value: value
            case ast.Attribute():
                return self._field(node)
        raise NotImplementedError(f"this piece of a CEL rule can't be evaluated: {ast.unparse(node)}")

    def _field(self, node: ast.Attribute) -> _Evaluate:
        schema, holder, name = self._schema_of(node), self.compiled(node.value), node.attr

        def field(value: Any) -> Any:
            found = _mapping(holder(value))
            if name not in found:
                raise _EvaluationError
            return found[name]

        if schema.get("format") == "date-time":
            return lambda value: _instant(field(value))
        return field

    def _schema_of(self, node: ast.expr) -> Schema:
        match node:
            case ast.Name("self"):
                return self._schema
            case ast.Attribute(parent, name):
                properties = self._schema_of(parent).get("properties", {})
                if name in properties:
                    found: Schema = properties[name]
                    return found
        raise NotImplementedError(f"the schema has no field {ast.unparse(node)}, which a rule reads")


def _either(operands: list[_Evaluate], *, decisive: bool) -> _Evaluate:
    """Return `||` (decided by a true operand) or `&&` (by a false one).

    As CEL demands, the deciding operand counts wherever it stands, even after one that fails.
    """

    def evaluate(value: Any) -> bool:
        failed: _EvaluationError | None = None
        for operand in operands:
            try:
                if operand(value) == decisive:
                    return decisive
            except _EvaluationError as error:
                failed = error
        if failed is not None:
            raise failed
        return not decisive

    return evaluate


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _EvaluationError
    return value


def _instant(value: Any) -> int:
    instant = nanoseconds_of(value) if isinstance(value, str) else None
    if instant is None:
        raise _EvaluationError
    return instant
