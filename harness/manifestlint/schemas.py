"""Writes JSON schemas for kubeconform from the OpenAPI documents of Kubernetes and from definitions.

The schemas that others publish would need the network at every run. These are of exactly the version that the
tests run on. They allow no field that is not described.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# How kubeconform finds the file of an object.
LOCATION = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"

# The groups that the manifests use.
_DOCUMENTS = (
    "api__v1",
    "apis__admissionregistration.k8s.io__v1",
    "apis__apiextensions.k8s.io__v1",
    "apis__apps__v1",
    "apis__coordination.k8s.io__v1",
    "apis__networking.k8s.io__v1",
    "apis__policy__v1",
    "apis__rbac.authorization.k8s.io__v1",
    "apis__scheduling.k8s.io__v1",
)
_PREFIX = "#/components/schemas/"

Schema = dict[str, Any]


def write_schemas(openapi: Path, definitions: Iterable[Path], target: Path) -> None:
    """Write one file for each kind into a folder, which appears when it is complete."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for document in _DOCUMENTS:
        schemas = json.loads((openapi / f"{document}_openapi.json").read_text())["components"]["schemas"]
        for name, schema in schemas.items():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                file = unfinished / _file_name(kind["group"], kind["version"], kind["kind"])
                file.write_text(json.dumps(_with_all_it_names(name, schemas)))
    for path in definitions:
        for file_name, schema in _of_definition(yaml.safe_load(path.read_text())):
            (unfinished / file_name).write_text(json.dumps(_strict(schema)))
    unfinished.replace(target)


def _file_name(group: str, version: str, kind: str) -> str:
    # kubeconform takes the version for the group of those kinds that have none.
    return f"{group or version}_{version}_{kind.lower()}.json"


def _of_definition(definition: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    spec = definition["spec"]
    for version in spec["versions"]:
        file_name = _file_name(spec["group"], version["name"], spec["names"]["kind"])
        yield file_name, version["schema"]["openAPIV3Schema"]


def _with_all_it_names(name: str, schemas: Mapping[str, Schema]) -> Schema:
    """Return a schema with all the schemas that it refers to, directly or not."""
    found: dict[str, Schema] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = _strict(schemas[each])
            waiting += _references(schemas[each])
    return {"$ref": _PREFIX + name, "components": {"schemas": found}}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_PREFIX)
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _strict(schema: Any) -> Any:
    """Return a schema in JSON Schema's words in place of OpenAPI's, without room for other fields."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(each) for key, each in schema.items() if key not in {"description", "default"}}
    properties = schema.get("properties")
    if isinstance(properties, dict):
        # By their names: a property may be called "description" or "default".
        strict["properties"] = {name: _strict(each) for name, each in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string") is True:
        strict.pop("type", None)
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
    return strict
