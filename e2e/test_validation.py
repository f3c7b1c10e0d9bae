"""Our decision about a new object, compared with that of the real API server.

Some things can't be equal, and are left out of the generated objects:

- The namespace always exists, since the API server looks for it first. Its form is compared with that of the
  name of a namespace.
- Kind, version and name are always given; in our requests they may be left out.
- A dry run ignores resourceVersion and the size in etcd. Real creates try both.
- Each entry of managedFields has a right operation: the API server keeps or drops an entry by its whole
  content, and refuses another operation only in an entry that it keeps.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes import config

from datastorage.errors import InvalidBodyError
from datastorage.records.canonical import canonical_bytes
from datastorage.records.jsonbody import parsed
from datastorage.resources.kinds import API_VERSION, AUDIT_RECORD, KINDS, ResourceKind
from datastorage.resources.validation.names import is_dns_label
from datastorage.resources.validation.served import as_served
from datastorage.resources.validation.size import MAX_OBJECT_BYTES, object_bytes
from datastorage.resources.validation.verdict import validated, verdict
from e2e.conftest import GUARD_OPT_OUT
from e2e.resource_cases import AUDIT_SPEC, CASES, TRACE_SPEC
from harness.controlplane import Cluster
from harness.mutations import edges, metadata_edges, objects, placed, rule_edges, statuses
from harness.strategies import json_values

JSON = Any
Object = dict[str, JSON]

# The same examples in each run: a difference is then either always found or never.
COMPARED = settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
COMPARED_LONG = settings(COMPARED, max_examples=5_000, derandomize=False)


class Server:
    """Sends the bytes of bodies to the API server as a strict create."""

    def __init__(self, api_client: Any, namespace: str) -> None:
        self._client = api_client
        self.namespace = namespace

    def create(self, kind: ResourceKind, body: bytes, *, dry_run: bool = True) -> tuple[int, Object]:
        """Return the status and the answer of a create."""
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/{kind.plural}?fieldValidation=Strict"
        return self.post(path, body, dry_run=dry_run)

    def post(self, path: str, body: bytes, *, dry_run: bool = True) -> tuple[int, Object]:
        headers = {"Content-Type": "application/json"} | self._client.default_headers
        token = self._client.configuration.get_api_key_with_prefix("authorization")
        headers |= {"Authorization": token} if token else {}
        url = f"{self._client.configuration.host}{path}{'&dryRun=All' if dry_run else ''}"
        response = self._client.rest_client.pool_manager.request("POST", url, body=body, headers=headers)
        return response.status, json.loads(response.data)


@pytest.fixture(scope="module")
def server(control_plane: Cluster) -> Iterator[Server]:
    name = f"e2e-validation-{secrets.token_hex(4)}"
    label, value = GUARD_OPT_OUT.split("=")
    metadata = {"name": name, "labels": {label: value}}
    control_plane.kubectl(
        "create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    )
    connect: Any = config.new_client_from_config
    yield Server(connect(str(control_plane.admin_kubeconfig)), name)
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def valid_in(server: Server, spec: Object | None = None) -> Object:
    """Return a valid record in the namespace of these tests; ``spec`` replaces single fields."""
    return placed(AUDIT_RECORD, server.namespace, {**AUDIT_SPEC, **(spec or {})})


def compare(server: Server, kind: ResourceKind, body: Object) -> None:
    """Assert that the API server decides about an object as we do, and keeps the spec that we would keep."""
    status, answer = server.create(kind, json.dumps(body).encode())
    assert status in (201, 400, 422), answer
    read = parsed(json.dumps(body).encode())
    ours = verdict(kind, read)
    assert (ours.problems == []) is (status == 201), (ours.problems, answer.get("message"))
    if status == 201:
        assert text_of(ours.spec) == text_of(answer["spec"])


def text_of(value: JSON) -> str:
    """Return the canonical text, in which 1 and 1.0 differ."""
    return canonical_bytes(value).decode()


def check_generated(server: Server, kind: ResourceKind, how: settings) -> None:
    verdicts = set()

    @how
    @given(objects(kind, server.namespace))
    def check(body: Object) -> None:
        compare(server, kind, body)
        verdicts.add(not validated(kind, body))

    check()
    assert verdicts == {True, False}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_field_at_its_bounds(server: Server, kind: ResourceKind) -> None:
    valid = AUDIT_SPEC if kind is AUDIT_RECORD else TRACE_SPEC
    for spec in (*edges(kind, valid), *rule_edges(kind, valid)):
        compare(server, kind, placed(kind, server.namespace, spec))


def test_each_field_of_the_metadata(server: Server) -> None:
    for metadata in metadata_edges():
        compare(server, AUDIT_RECORD, placed(AUDIT_RECORD, server.namespace, AUDIT_SPEC, metadata))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_field_of_the_status(server: Server, kind: ResourceKind) -> None:
    valid = AUDIT_SPEC if kind is AUDIT_RECORD else TRACE_SPEC
    for status in statuses(kind):
        compare(server, kind, placed(kind, server.namespace, valid) | {"status": status})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_generated_objects(server: Server, kind: ResourceKind) -> None:
    check_generated(server, kind, COMPARED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_many_generated_objects(server: Server, kind: ResourceKind) -> None:
    check_generated(server, kind, COMPARED_LONG)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.change], ids=lambda case: f"{case.kind.singular}: {case.name}"
)
def test_case(server: Server, case: Any) -> None:
    compare(server, case.kind, placed(case.kind, server.namespace, case.manifest.get("spec")))


def _without(body: Object, name: str) -> Object:
    return {key: value for key, value in body.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body | {"apiVersion": ""},
        lambda body: body | {"apiVersion": None},
        lambda body: body | {"apiVersion": "datastorage.kubernaut.io/v1"},
        lambda body: body | {"apiVersion": "v1alpha1"},
        lambda body: body | {"apiVersion": 1},
        lambda body: body | {"kind": ""},
        lambda body: body | {"kind": None},
        lambda body: body | {"kind": "auditrecord"},
        lambda body: body | {"kind": "ActionTrace"},
        lambda body: body | {"KIND": "AuditRecord"},
        lambda body: body | {"spec": None},
        lambda body: body | {"spec": []},
        lambda body: body | {"metadata": []},
        lambda body: body | {"metadata": "a"},
        lambda body: _without(body, "spec"),
        lambda body: [body],
        lambda _: None,
        lambda _: {},
        lambda _: "a",
    ],
)
def test_frame_of_an_object(server: Server, change: Callable[[Object], JSON]) -> None:
    body = change(valid_in(server))
    status, _ = server.create(AUDIT_RECORD, json.dumps(body).encode())
    assert (validated(AUDIT_RECORD, body) == []) is (status == 201)


@given(name=st.from_regex(r"[-a-zA-Z0-9.é]{1,8}|a{60,64}|[a-]{60,64}", fullmatch=True))
@COMPARED
def test_names_of_namespaces(server: Server, name: str) -> None:
    """The namespace of an object is checked as the creation of a namespace checks its name."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    status, _ = server.post("/api/v1/namespaces?fieldValidation=Strict", json.dumps(body).encode())
    assert is_dns_label(name) is (status in (201, 409))


@pytest.mark.parametrize(
    "version", ["", "0", "1", "007", "x", "+1", str(2**64 - 1), str(2**64), "0" * 30 + "1", "1.0"]
)
def test_resource_version(server: Server, version: str) -> None:
    body = valid_in(server)
    body["metadata"] |= {"resourceVersion": version, "name": f"version-{secrets.token_hex(4)}"}
    status, _ = server.create(AUDIT_RECORD, json.dumps(body).encode(), dry_run=False)
    assert (validated(AUDIT_RECORD, body) == []) is (status == 201)


@pytest.mark.parametrize("character", ["a", "é", "<", "\u2028", "\0"])
@pytest.mark.parametrize(("more", "accepted"), [(0, True), (4096, False)])
def test_size(server: Server, character: str, more: int, accepted: bool) -> None:  # noqa: FBT001
    """The limit lies less than 4 KiB below etcd's."""
    body = valid_in(server, {"details": ""})
    body["metadata"]["name"] = f"size-{secrets.token_hex(4)}"
    each = object_bytes({"details": character * 1_000_000}) // 1_000_000
    count = (MAX_OBJECT_BYTES + more - object_bytes(body)) // each
    body["spec"]["details"] = character * count
    raw = json.dumps(body, ensure_ascii=False).encode()
    status, answer = server.create(AUDIT_RECORD, raw, dry_run=False)
    assert (status == 201) is accepted, answer
    assert (validated(AUDIT_RECORD, parsed(raw)) == []) is accepted


TEXTS = [
    "0", "-0", "-0.0", "01", "+1", "1.", ".5", "1e3", "1E+3", "1e400", "-1e400", "1e-400",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1" + "0" * 308, "1" + "0" * 309, "1" + "0" * 5000, "0." + "1" * 5000, "NaN",
    "Infinity", "-Infinity", "-", "0x1", "1_0", "1 0", '"\\ud800"', '"\\ud800\\ud800\\udc00"',
    '"\\udc00\\ud800"', '"\\ud83e\\udde8"', '"\\\\ud800"', '"\\ud800\\\\udc00"', '"\\uD8"', '"\\u0000"',
    '"\\x41"', '"\\\'"', '"\\/"', '"a\tb"', '"a\x7fb"', '"a', "'a'", '"\u2028"', '""', "{}", '{"": 1}',
    '{"a": 1, "a": 1}', '[{"a": {"b": 1, "b": 2}}]', '{"\\ud800": 1, "\\udbff": 2}',
    '{"a": 1, "\\u0061": 2}', "{a: 1}", '{"a": 1,}', "[1,]", "[,]", "[", "]", "nul", "True", "/**/1",
    "1 // a", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:30]))
def test_text_of_a_value(server: Server, text: str) -> None:
    compare_text(server, text)


@given(
    text=st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,3})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
    | json_values(6).map(json.dumps)
)
@COMPARED
def test_generated_texts_of_values(server: Server, text: str) -> None:
    compare_text(server, text)


def compare_text(server: Server, text: str) -> None:
    """Assert that a text is read as the API server reads it."""
    frame = json.dumps(valid_in(server, {"details": "HERE"}))
    raw = frame.replace('"HERE"', text).encode()
    status, answer = server.create(AUDIT_RECORD, raw)
    try:
        read = parsed(raw)
    except InvalidBodyError:
        assert status == 400, answer
        return
    assert status == 201, answer
    assert text_of(as_served(read["spec"]["details"])) == text_of(answer["spec"].get("details"))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: b" \t\r\n" + raw + b"\n\n",
        lambda raw: raw + b"\0",
        lambda raw: raw + b"\f",
        lambda raw: raw + raw,
        lambda raw: raw[:-1],
        lambda raw: raw.decode().encode("utf-16"),
        lambda raw: raw[:-1] + b', "kind": "AuditRecord"}',
        lambda _: b"",
    ],
)
def test_bytes_of_a_body(server: Server, change: Callable[[bytes], bytes]) -> None:
    raw = change(json.dumps(valid_in(server)).encode())
    status, _ = server.create(AUDIT_RECORD, raw)
    try:
        parsed(raw)
    except InvalidBodyError:
        assert status == 400
    else:
        assert status == 201


def test_the_greatest_request(server: Server) -> None:
    raw = json.dumps(valid_in(server)).encode()
    for more, accepted in ((0, True), (1, False)):
        body = raw.ljust(3 * 1024 * 1024 + more)
        assert (server.create(AUDIT_RECORD, body)[0] == 201) is accepted
        if accepted:
            parsed(body)
        else:
            with pytest.raises(InvalidBodyError):
                parsed(body)


def test_what_is_stricter_here(server: Server) -> None:
    """The API server replaces bytes that are not UTF-8. We refuse them, so that no evidence is changed."""
    raw = json.dumps(valid_in(server, {"details": "HERE"})).encode().replace(b"HERE", b"\xff")
    assert server.create(AUDIT_RECORD, raw)[0] == 201
    with pytest.raises(InvalidBodyError, match="UTF-8 at byte"):
        parsed(raw)
