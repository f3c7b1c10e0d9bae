"""Every request that the API describes, with values that belong to a record of another namespace.

The requests come from the OpenAPI document, so that a new operation takes part by itself. A new parameter
needs a value in ``_VALUES``, if its schema does not list them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

_API: Final = "/api/v1"
# Stores, and asks nothing.
_OTHER_OPERATIONS: Final = frozenset({"storeRecords"})
# No values of records: what a page, an answer or a group looks like.
_FORMS: Final[Mapping[str, Sequence[str]]] = {
    "pageSize": ("1", "1000"),
    "limit": ("1", "1000"),
    "generation": ("1", "2"),
    "groupBy": ("namespace", "type,day", "action,targetKind"),
    "fields": ("record", "intact,record.spec.message"),
    "pageToken": (),  # filled in with those of other callers
    "namespace": (),  # filled in with each place
}


@dataclass(frozen=True)
class Foreign:
    """What somebody knows of records of another namespace, whose content it may not read."""

    uids: Sequence[str]
    values: Mapping[str, Sequence[str]]
    """By the name of a parameter: the values that match the records."""
    tokens: Sequence[str] = ()
    """Page tokens of a caller who may read the records."""


@dataclass(frozen=True)
class Attempt:
    """One request."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}"


@dataclass
class Attack:
    """Makes the attempts of a caller."""

    document: Mapping[str, Any]
    foreign: Foreign
    unknown: set[str] = field(default_factory=set)
    """Parameters for which nobody has said a value."""

    def attempts(self, namespace: str | None) -> Iterator[Attempt]:
        """Yield requests to every operation: each parameter with each value, the needed ones always."""
        for path, methods in self.document["paths"].items():
            for method, described in methods.items():
                if path.startswith(_API) and described["operationId"] not in _OTHER_OPERATIONS:
                    yield from self._of_operation(method.upper(), path, described, namespace)

    def _of_operation(
        self, method: str, path: str, described: Mapping[str, Any], namespace: str | None
    ) -> Iterator[Attempt]:
        # The references lead to the headers of every request.
        given = [each for each in described.get("parameters", ()) if "$ref" not in each]
        in_path = [each for each in given if each["in"] == "path"]
        choices = [self._values(each["name"], each["schema"]) for each in in_path]
        for chosen in itertools.product(*choices):
            filled = path.removeprefix(_API)
            for each, value in zip(in_path, chosen, strict=True):
                filled = filled.replace(f"{{{each['name']}}}", quote(value, safe=""))
            queries = {
                each["name"]: (each["schema"], each["required"]) for each in given if each["in"] == "query"
            }
            for query in self._combinations(queries, namespace):
                yield Attempt(method, f"{filled}?{urlencode(query)}")
            body = described.get("requestBody")
            if body is not None:
                schema = self._resolved(body["content"]["application/json"]["schema"])
                fields = {
                    name: (each, name in schema["required"]) for name, each in schema["properties"].items()
                }
                for query in self._combinations(fields, namespace):
                    yield Attempt(method, filled, {name: _typed(value) for name, value in query.items()})

    def _combinations(
        self, parameters: Mapping[str, tuple[Mapping[str, Any], bool]], namespace: str | None
    ) -> Iterator[dict[str, str]]:
        place = {"namespace": namespace} if namespace is not None and "namespace" in parameters else {}
        needed = {
            name: self._values(name, schema)[0] for name, (schema, required) in parameters.items() if required
        }
        yield {**place, **needed}
        for name, (schema, _) in parameters.items():
            for value in self._values(name, schema):
                yield {**place, **needed, name: value}

    def _values(self, name: str, schema: Mapping[str, Any]) -> Sequence[str]:
        """Return the values to try for a parameter; none for what the caller of this class fills in."""
        if name in {"pageToken", "resumeToken"}:
            return self.foreign.tokens
        if name == "uid":
            return self.foreign.uids
        if name in self.foreign.values:
            return self.foreign.values[name]
        if name in _FORMS:
            return _FORMS[name]
        schema = self._resolved(schema)
        options = [self._resolved(each) for each in schema.get("anyOf", [schema])]
        listed = [str(value) for each in options for value in each.get("enum", ())]
        if not listed and any(each.get("type") == "boolean" for each in options):
            return ("true", "false")
        if not listed:
            self.unknown.add(name)
        return listed

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema


def _typed(value: str) -> Any:
    return int(value) if value.isdecimal() else value
