"""A client of the REST API that compares each answer with the OpenAPI document."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from datastorage.api import answerschemas
from datastorage.api.document import document
from datastorage.api.operations import NDJSON
from harness.apiclient import Answer, ApiClient


class DocumentedClient(ApiClient):
    """Sends requests, and raises AssertionError for an answer that the document does not describe."""

    def send(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Send a request to a path below /api/v1."""
        answer = super().send(method, path, content, headers)
        check_documented(method, f"/api/v1{path}", answer)
        return answer


def check_documented(method: str, path: str, answer: Answer) -> None:
    """Raise AssertionError unless the document describes this answer to a request with this path."""
    described = _operation(method, urlsplit(path).path)
    found = described["responses"].get(str(answer.status))
    assert found is not None, f"{method} {path}: status {answer.status} is not documented"
    for name, header in found.get("headers", {}).items():
        assert name.lower() in answer.headers or not header["required"], f"{method} {path}: no header {name}"
    if "content" not in found:
        assert answer.content == b""
        return
    media = answer.headers["content-type"].partition(";")[0]
    content = found["content"].get(media)
    assert content is not None, f"{method} {path}: {media} is not documented for status {answer.status}"
    if media == NDJSON:
        for line in answer.content.splitlines():
            name = "ExportEnd" if json.loads(line)["kind"] == "ExportEnd" else "ExportLine"
            getattr(answerschemas, name).model_validate_json(line, strict=True)
        return
    _check_body(content, answer.json)


def _check_body(content: Mapping[str, Any], body: Any) -> None:
    if "$ref" not in content["schema"]:
        return
    model = getattr(answerschemas, content["schema"]["$ref"].rpartition("/")[2])
    model.model_validate_json(json.dumps(body), strict=True)
    if model is answerschemas.Problem:
        assert body["code"] in content["examples"], f"the code {body['code']} is not documented"


def _operation(method: str, path: str) -> Mapping[str, Any]:
    # Paths without parameters come first, as the routes do: /query/semantic is no type of records.
    for template, methods in sorted(_PATHS.items(), key=lambda each: each[0].count("{")):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in methods:
            described: Mapping[str, Any] = methods[method.lower()]
            return described
    raise AssertionError(f"{method} {path} is not documented")


_PATHS: Mapping[str, Mapping[str, Any]] = document()["paths"]
