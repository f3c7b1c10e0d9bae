"""The OpenAPI document and its pages. The tests of the API compare its answers with the document."""

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from datastorage.api.answerschemas import Receipt, Summary, TargetHistory
from datastorage.api.app import api_server
from datastorage.api.document import described_app, document
from datastorage.api.operations import NDJSON
from datastorage.api.problems import MEDIA_TYPE
from datastorage.api.reference import html
from datastorage.api.replicalag import HEADER as REPLICA_LAG
from datastorage.resources.crd import crd
from datastorage.resources.kinds import AUDIT_RECORD, AuditType
from datastorage.resources.validation.verdict import validated
from harness.apiclient import Answer
from harness.apidocument import check_documented
from harness.ports import free_port
from tests.support.serving import serving

DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    f"{method} {path}": described
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
}
STORE = OPERATIONS["post /api/v1/store/{type}"]


def members(value: Any, name: str) -> Iterator[Any]:
    """Yield the values of all members of a name, at any depth."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for each in value.values():
            yield from members(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from members(each, name)


def resolved(value: Any) -> Any:
    """Return what a reference leads to, or the value itself."""
    if "$ref" not in value:
        return value
    found = DOCUMENT
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_every_operation_is_named_and_described_for_itself() -> None:
    ids = [described["operationId"] for described in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for described in OPERATIONS.values():
        assert described["summary"]
        assert described["description"]
        assert set(described["tags"]) <= tags
        for parameter in map(resolved, described.get("parameters", ())):
            schema = parameter["schema"]
            assert parameter.get("description") or SCHEMAS[schema["$ref"].rpartition("/")[2]]["description"]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "/api/" in name])
def test_every_error_is_a_problem_with_its_codes(name: str) -> None:
    responses = OPERATIONS[name]["responses"]
    assert {"401", "403", "503"} <= responses.keys()
    assert set(responses["401"]["headers"]) == {"WWW-Authenticate", "X-Request-Id"}
    assert set(responses["503"]["headers"]) == {"Retry-After", "X-Request-Id"}
    for status, described in responses.items():
        if int(status) >= 400:
            [(media, content)] = described["content"].items()
            assert media == MEDIA_TYPE
            assert {each["value"]["status"] for each in content["examples"].values()} == {int(status)}


def test_every_answer_has_an_identifier() -> None:
    for described in OPERATIONS.values():
        for each in described["responses"].values():
            assert resolved(each["headers"]["X-Request-Id"])["required"]


def test_all_but_the_probes_need_a_token() -> None:
    assert DOCUMENT["security"] == [{"bearer": []}]
    assert [name for name, each in OPERATIONS.items() if "security" in each] == [
        "get /health",
        "get /ready",
        "get /version",
    ]


def test_every_reference_leads_to_a_schema() -> None:
    for reference in members(DOCUMENT, "$ref"):
        assert resolved({"$ref": reference})
    names = {reference.removeprefix("#/components/schemas/") for reference in members(DOCUMENT, "$ref")}
    assert SCHEMAS.keys() - names == set()


def test_a_record_has_the_fields_of_the_custom_resource() -> None:
    [version] = crd(AUDIT_RECORD)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    sent = SCHEMAS["AuditRecordSpec"]
    assert sent["properties"].keys() == spec["properties"].keys()
    assert set(sent["required"]) == set(spec["required"]) - {"type"}
    assert sent["properties"]["action"] == spec["properties"]["action"]
    assert sent["properties"]["actor"]["required"] == spec["properties"]["actor"]["required"]
    assert set(SCHEMAS["AuditRecord"]["required"]) == {"metadata", "spec"}
    assert "endTime must not be before startTime" in sent["description"]
    assert not [key for key in str(sent).split("'") if key.startswith("x-kubernetes-")]


def test_the_examples_are_valid() -> None:
    examples = STORE["requestBody"]["content"]["application/json"]["examples"]
    records = [examples["one"]["value"], *examples["batch"]["value"], *SCHEMAS["AuditRecord"]["examples"]]
    for record in records:
        for each in AuditType:
            typed = {**record, "spec": {"type": str(each), **record["spec"]}}
            assert validated(AUDIT_RECORD, typed) == []
    for status in ("200", "201"):
        Receipt.model_validate(STORE["responses"][status]["content"]["application/json"]["example"])


@pytest.mark.parametrize(
    ("path", "model"), [("/api/v1/history", TargetHistory), ("/api/v1/summary", Summary)]
)
def test_the_examples_of_answers_are_valid(path: str, model: type[TargetHistory | Summary]) -> None:
    answer = OPERATIONS[f"get {path}"]["responses"]["200"]["content"]["application/json"]
    model.model_validate_json(json.dumps(answer["example"]), strict=True)


async def test_the_document_and_a_page_without_scripts_are_served() -> None:
    port = free_port()
    server = api_server(described_app(), addresses="127.0.0.1", port=port)
    async with serving(server), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/openapi.json") as response:
            assert (response.status, response.content_type) == (200, "application/json")
            assert await response.json() == DOCUMENT
        async with session.get("/docs") as response:
            assert (response.status, response.content_type) == (200, "text/html")
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            page = await response.text()
    for foreign in ("<script", "src=", "http:", "https:", "@import", "url("):
        assert foreign not in page
    for described in OPERATIONS.values():
        assert described["summary"] in page


def test_an_export_has_lines_alone_and_comes_from_the_primary() -> None:
    success = OPERATIONS["get /api/v1/export"]["responses"]["200"]
    assert list(success["content"]) == [NDJSON]
    assert REPLICA_LAG not in success["headers"]
    assert REPLICA_LAG in OPERATIONS["get /api/v1/summary"]["responses"]["200"]["headers"]


def test_a_text_is_no_markup_in_the_page() -> None:
    info = {"title": "<title>", "version": "<version>", "description": "<b> & `<code>`"}
    page = html({**DOCUMENT, "info": info})
    assert "<p>&lt;b&gt; &amp; <code>&lt;code&gt;</code></p>" in page
    assert "<h1>&lt;title&gt; &lt;version&gt;</h1>" in page


@pytest.mark.parametrize(
    ("status", "headers", "content", "why"),
    [
        (418, {}, b"", "status 418 is not documented"),
        (401, {"content-type": MEDIA_TYPE}, b"{}", "no header WWW-Authenticate"),
        (404, {"content-type": "text/html"}, b"", "text/html is not documented"),
        (404, {"content-type": MEDIA_TYPE}, b'{"code": "not-found"}', "title"),
        (304, {"etag": '""', "vary": ""}, b"{}", "no content is documented"),
    ],
)
def test_an_answer_that_is_not_documented_is_noticed(
    status: int, headers: dict[str, str], content: bytes, why: str
) -> None:
    answer = Answer(status, {"x-request-id": "1", **headers}, content)
    with pytest.raises((AssertionError, ValueError), match=re.escape(why)):
        check_documented("GET", "/api/v1/query/records/1", answer)


def test_a_header_of_every_answer_is_missed() -> None:
    with pytest.raises(AssertionError, match="no header X-Request-Id"):
        check_documented("GET", "/api/v1/query/records/1", Answer(304, {"etag": '""', "vary": ""}, b""))
