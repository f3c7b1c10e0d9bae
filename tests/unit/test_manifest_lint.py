"""The checks of `make lint` about the manifests find what they should."""

import json
from pathlib import Path

import yaml

from harness.manifestlint.exemptions import EXEMPTIONS, Exemption
from harness.manifestlint.kubescore import Finding, problems
from harness.manifestlint.schemas import write_schemas

FINDING = Finding("base", "Deployment/datastorage", "pod-probes", "run: no probe")
EXEMPTION = Exemption("pod-probes", "Deployment/datastorage", "It has none.", frozenset({"base"}))


def test_a_finding_is_a_problem_unless_it_is_exempt() -> None:
    assert problems([FINDING], []) == ["base: Deployment/datastorage: run: no probe (pod-probes)"]
    assert problems([FINDING], [EXEMPTION]) == []


def test_an_exemption_holds_in_its_renderings_and_for_its_object_alone() -> None:
    elsewhere = Finding("tls", FINDING.object, FINDING.check, FINDING.comment)
    other = Finding("base", "Deployment/redis", FINDING.check, FINDING.comment)
    assert len(problems([FINDING, elsewhere, other], [EXEMPTION])) == 2


def test_an_exemption_that_nothing_needs_is_a_problem() -> None:
    [line] = problems([], [EXEMPTION])
    assert "remove it" in line
    assert EXEMPTION.check in line


def test_every_exemption_has_a_reason() -> None:
    assert all(each.reason.endswith(".") for each in EXEMPTIONS)


def openapi(folder: Path) -> Path:
    """Write OpenAPI documents as Kubernetes has them; all but that of apps are empty."""
    folder.mkdir()
    schemas = {
        "Scale": {
            "type": "object",
            "description": "A size.",
            "properties": {
                "kind": {"type": "string"},
                "spec": {"allOf": [{"$ref": "#/components/schemas/ScaleSpec"}], "default": {}},
            },
            "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Scale"}],
        },
        "ScaleSpec": {
            "type": "object",
            "properties": {
                "description": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "Other": {"type": "object"},
    }
    for group in (
        "api__v1", "apis__admissionregistration.k8s.io__v1", "apis__apiextensions.k8s.io__v1",
        "apis__apps__v1", "apis__coordination.k8s.io__v1", "apis__networking.k8s.io__v1",
        "apis__policy__v1", "apis__rbac.authorization.k8s.io__v1", "apis__scheduling.k8s.io__v1",
    ):  # fmt: skip
        document = {"components": {"schemas": schemas if group == "apis__apps__v1" else {}}}
        (folder / f"{group}_openapi.json").write_text(json.dumps(document))
    return folder


def test_the_schema_of_a_kind_has_all_that_it_names_and_allows_nothing_more(tmp_path: Path) -> None:
    write_schemas(openapi(tmp_path / "openapi"), [], tmp_path / "schemas")
    schema = json.loads((tmp_path / "schemas" / "apps_v1_scale.json").read_text())
    assert schema["$ref"] == "#/components/schemas/Scale"
    assert set(schema["components"]["schemas"]) == {"Scale", "ScaleSpec"}
    spec = schema["components"]["schemas"]["ScaleSpec"]
    assert spec["additionalProperties"] is False
    assert spec["properties"]["description"] == {"type": "string"}, "a property, not the schema's own text"
    assert spec["properties"]["labels"]["additionalProperties"] == {"type": "string"}


def test_a_definition_gives_the_schema_of_its_kind(tmp_path: Path) -> None:
    served = {
        "type": "object",
        "properties": {
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "properties": {
                    "port": {"x-kubernetes-int-or-string": True, "type": "integer"},
                    "note": {"type": "string", "nullable": True},
                    "free": {
                        "type": "object",
                        "properties": {"known": {"type": "string"}},
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                },
            },
        },
    }
    definition = {
        "spec": {
            "group": "example.org",
            "names": {"kind": "Thing"},
            "versions": [{"name": "v2", "schema": {"openAPIV3Schema": served}}],
        }
    }
    (tmp_path / "thing.yaml").write_text(yaml.safe_dump(definition))
    write_schemas(openapi(tmp_path / "openapi"), [tmp_path / "thing.yaml"], tmp_path / "schemas")
    schema = json.loads((tmp_path / "schemas" / "example.org_v2_thing.json").read_text())
    assert schema["additionalProperties"] is False
    assert "additionalProperties" not in schema["properties"]["metadata"]
    spec = schema["properties"]["spec"]["properties"]
    assert "type" not in spec["port"]
    assert spec["note"]["type"] == ["string", "null"]
    assert "additionalProperties" not in spec["free"]
