"""The text that is embedded: equal events have equal texts, and words that matter are in it."""

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastorage.embedding.questiontext import query_text
from datastorage.records import scrub as scrub_module
from datastorage.records.hashes import text_hash
from datastorage.records.scrub import clip, scrub
from datastorage.records.words import MAX_EMBEDDED_CHARACTERS
from datastorage.resources.reading.registry import reading_named
from harness.strategies import action_trace_specs, audit_record_specs, json_values
from tests.support.cputime import best_cpu_seconds

UUID = "123e4567-e89b-12d3-a456-426614174000"
SHA256 = "3f9a0c71" * 8

RECORD: dict[str, Any] = {
    "type": "Execution",
    "action": "patch-deployment",
    "phase": "Failed",
    "correlationID": "rr-checkout-oom-4f7a",
    "startTime": "2026-03-14T09:27:12Z",
    "endTime": "2026-03-14T09:27:19Z",
    "alertFingerprint": "9c2f1d7be04a55e8",
    "resourceRef": {
        "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "payments", "name": "checkout",
        "uid": UUID,
    },
    "message": "Memory limit of checkout raised from 256Mi to 512Mi",
    "errorMessage": "admission webhook denied the request: HTTP 503",
    "execution": {"workflowID": "wf-118", "executionID": "ex-118-2", "success": False, "durationMs": 7412},
}  # fmt: skip

TRACE: dict[str, Any] = {
    "correlationID": "rr-checkout-oom-4f7a",
    "actionType": "increase_resources",
    "targetRef": {"kind": "Pod", "namespace": "payments", "name": "checkout-7d9f8bc4c6-xkqpz"},
    "alert": {"name": "KubePodCrashLooping", "fingerprint": "9c2f1d7be04a55e8", "severity": "critical"},
    "model": {"name": "granite3.1-dense:8b", "confidence": 0.9, "reasoning": "It needs 400Mi at peaks."},
    "execution": {"status": "RolledBack", "error": "exit code 137"},
    "effectiveness": {"score": 0.1, "notes": "The kills went on."},
}  # fmt: skip


def embedding_text(kind: str, spec: dict[str, Any]) -> str:
    return reading_named(kind).text(spec).text


def test_a_record_says_what_was_done_to_what_and_how_it_went() -> None:
    assert embedding_text("AuditRecord", RECORD) == (
        "patch deployment. Execution failed. Deployment checkout in payments. "
        "Memory limit of checkout raised from 256Mi to 512Mi. admission webhook denied the request: HTTP 503"
    )


def test_a_trace_says_what_was_chosen_and_why_and_whether_it_helped() -> None:
    assert embedding_text("ActionTrace", TRACE) == (
        "increase resources. rolled back. Pod checkout in payments. Kube Pod Crash Looping. "
        "It needs 400Mi at peaks. exit code 137. The kills went on"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"correlationID": "rr-other"},
        {"startTime": "2027-01-01T00:00:00Z", "endTime": "2027-01-01T00:00:01Z"},
        {"alertFingerprint": "0000000000000000"},
        {"actor": {"kind": "Controller", "name": "another"}},
        {"resourceRef": RECORD["resourceRef"] | {"uid": "another", "apiVersion": "apps/v2"}},
        {"execution": {"workflowID": "wf-9", "executionID": "ex-9", "success": False, "durationMs": 1}},
        {"details": {"anything": UUID}},
        {"ttlSecondsAfterStored": 1},
    ],
)
def test_equal_events_have_equal_texts_whatever_their_identifiers(change: dict[str, Any]) -> None:
    assert embedding_text("AuditRecord", RECORD | change) == embedding_text("AuditRecord", RECORD)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "scale-deployment"},
        {"type": "Workflow"},
        {"phase": "Completed"},
        {"resourceRef": RECORD["resourceRef"] | {"name": "cart"}},
        {"resourceRef": RECORD["resourceRef"] | {"namespace": "shipping"}},
        {"resourceRef": RECORD["resourceRef"] | {"kind": "StatefulSet"}},
        {"message": "Memory limit of checkout raised from 256Mi to 1Gi"},
        {"errorMessage": "admission webhook denied the request: HTTP 500"},
    ],
)
def test_meaningful_differences_make_different_texts(change: dict[str, Any]) -> None:
    assert embedding_text("AuditRecord", RECORD | change) != embedding_text("AuditRecord", RECORD)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scale_deployment", "scale deployment"),
        ("scale-deployment", "scale deployment"),
        ("scaleDeployment", "scale Deployment"),
        ("ContainerOOMKilled", "Container OOM Killed"),
        ("HTTPErrorRateHigh", "HTTP Error Rate High"),
        ("node.drain/cordon", "node drain cordon"),
        ("restart", "restart"),
    ],
)
def test_a_name_of_an_action_is_split_into_words(name: str, words: str) -> None:
    assert embedding_text("AuditRecord", {"action": name}).startswith(words)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("Pod", "checkout-7d9f8bc4c6-x2k9p", "checkout"),
        ("Pod", "checkout-7d9f8bc4c6-xkqpz", "checkout"),
        ("Pod", "payment-api-5b6d7f8c9-24vwx", "payment api"),
        ("Pod", "node-exporter-x2k9p", "node exporter"),
        ("Pod", "node-exporter-xkqpz", "node exporter"),
        ("Pod", "backup-28473612-x2k9p", "backup"),
        ("Pod", "postgres-0", "postgres 0"),
        ("Pod", "proxy-https", "proxy https"),
        ("Job", "backup-28473612", "backup"),
        ("Job", "export-1710408413", "export"),
        ("ReplicaSet", "checkout-7d9f8bc4c6", "checkout"),
        ("Workflow", f"clean-{UUID}", "clean"),
        ("Node", "ip-10-0-12-34.ec2.internal", "ec2 internal"),
        ("Deployment", "checkout", "checkout"),
        ("Deployment", "grpc-http2", "grpc http2"),
        ("Deployment", "cart-redis-pgsql", "cart redis pgsql"),
        ("Service", "kube-dns", "kube dns"),
        ("Service", "payments-v2", "payments v2"),
    ],
)
def test_a_target_is_named_as_its_owner_named_it(kind: str, name: str, expected: str) -> None:
    text = embedding_text("AuditRecord", {"resourceRef": {"kind": kind, "name": name}})
    assert text.rpartition(f"{kind.replace('Set', ' Set')} ")[2] == expected


@pytest.mark.parametrize(
    "identifier",
    [
        UUID,
        UUID.upper(),
        SHA256,
        f"sha256:{SHA256}",
        "4f7a9c2e",
        "17ab3c4d5e6f7a8b",
        "0xc000123456",
        "2026-03-14T09:26:53Z",
        "2026-03-14T09:26:53.123456789+02:00",
        "2026-03-14 09:26:53,123",
        "2026-03-14 09:26:53.5 +0000 UTC",
        "2026-03-14",
        "09:26:53.123456",
        "E0314 09:26:53.123456",
        "10.0.12.34",
        "10.0.12.34:8080",
        "10.0.0.0/16",
        "2001:db8::1",
        "::1",
        "fe80::a00:27ff:fe4e:66a1",
        "1710408413",
        "1710408413.25",
        "1710408413123",
        "1710408413123456789",
        "20240314092653000",
    ],
)
def test_identifiers_times_and_addresses_are_left_out(identifier: str) -> None:
    assert scrub(f"pod {identifier} was killed") == "pod was killed"
    assert scrub(identifier) == ""
    assert scrub(f"pod ({identifier}), was killed") == "pod , was killed"


@pytest.mark.parametrize(
    "meaning",
    [
        "256Mi", "95%", "500ms", "exit code 137", "HTTP 503", "v1.2.3", "v1.32.5-gke.1234000", "port 8080",
        "replicas 3", "1.5 GiB", "12:30", "5 min 27 s", "536870912", "1610612736 bytes", "1610612736B",
        "137438953472 bytes", "0x80004005", "std::vector", "a::b", "deadbeef", "facade", "99.99", "1.2.3",
        "x86_64", "amd64", "http2", "kube-proxy", "e2e", "p99", "0.123456789012", "k8s.io/api", "US-EAST-1",
        "SIGKILL", "CVE-2024-3094", "1073741824", "build123456789012",
    ],
)  # fmt: skip
def test_numbers_and_words_that_mean_something_stay(meaning: str) -> None:
    assert scrub(f"it was {meaning} then") == f"it was {meaning} then"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pod checkout-7d9f8bc4c6-x2k9p: OOMKilled", "pod checkout: OOMKilled"),
        ("replica set checkout-7d9f8bc4c6 scaled", "replica set checkout scaled"),
        (f"k8s_cart_cart-7d9f8bc4c6-x2k9p_shop_{UUID}_0 exited", "k8s_cart_cart_shop _0 exited"),
        (f"pull shop/cart@sha256:{SHA256} failed", "pull shop/cart failed"),
        (f'event uid="{UUID}" [{UUID}]', "event uid="),
        ("  many \t\r\n  blanks\u2003here ", "many blanks here"),
        ("NUL\0and \ud800 half", "NUL and half"),
    ],
)
def test_a_sentence_stays_a_sentence(text: str, expected: str) -> None:
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"type": "Remediation", "phase": "Completed"},
        {"type": "Remediation", "phase": "Completed", "action": " ", "message": " \t\n "},
        {"type": "Remediation", "phase": "Completed", "action": "--", "message": "…", "errorMessage": "\0\0"},
        {"message": UUID, "resourceRef": {"name": UUID}},
    ],
)
def test_a_record_that_says_nothing_has_no_text(spec: dict[str, Any]) -> None:
    assert embedding_text("AuditRecord", spec) == ""
    assert embedding_text("ActionTrace", spec) == ""


def test_an_unknown_kind_has_no_text() -> None:
    with pytest.raises(KeyError):
        embedding_text("Pod", RECORD)


def test_a_message_that_repeats_the_error_is_said_once() -> None:
    text = embedding_text(
        "AuditRecord", {"action": "act", "message": "It broke.", "errorMessage": "It broke"}
    )
    assert text.count("It broke") == 1


def test_a_long_message_leaves_room_for_the_error() -> None:
    text = embedding_text("AuditRecord", RECORD | {"message": "word " * 3000})
    assert "HTTP 503" in text
    assert len(text) <= MAX_EMBEDDED_CHARACTERS


def test_a_long_text_is_cut_between_words() -> None:
    assert clip("one two three", 9) == "one two"
    assert clip("one two three", 7) == "one two"
    assert clip("one two", 7) == "one two"
    assert clip("x" * 3000, 2000) == "x" * 2000


@given(st.one_of(audit_record_specs(), action_trace_specs()), st.sampled_from(["AuditRecord", "ActionTrace"]))
def test_every_spec_has_a_clean_text(spec: dict[str, Any], kind: str) -> None:
    _assert_clean(embedding_text(kind, spec))


@given(
    st.dictionaries(
        st.sampled_from([*RECORD, *TRACE]),
        json_values() | st.text(st.characters(categories=["C", "Z", "Nd", "Ll"]), max_size=3000),
    )
)
def test_whatever_stands_in_the_fields_nothing_breaks(spec: dict[str, Any]) -> None:
    for kind in ("AuditRecord", "ActionTrace"):
        _assert_clean(embedding_text(kind, spec))


def _assert_clean(text: str) -> None:
    assert len(text) <= MAX_EMBEDDED_CHARACTERS
    assert text == " ".join(text.split())
    assert not any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text)
    text.encode()
    json.dumps(text)


HOSTILE = [
    "a-", "0", "/", ":", "1.", "-", "f", "f1-", "(", "2026-03-14T", "0x", "\0", "1234:", "[:", "b2",
    "-bcdfg2", "aA", "1 ", "é", "ip-1-1-", "a-b2c4d-", "12345678-", "1e", "::", "1:", "09:26:", "()", "[ ",
    "sha256:",    "1710408413", "\ud800", "\u0300", "-7d9f8bc4c6", "{}", "''", "abcdef01-1111-", ". ", "a::1",
]  # fmt: skip


def _seconds(pattern: str, size: int) -> float:
    text = (pattern * (size // len(pattern) + 1))[:size] + "g"  # characters that end no identifier
    return best_cpu_seconds(lambda: scrub(text))


@pytest.mark.parametrize("pattern", HOSTILE)
def test_the_time_is_linear_in_hostile_texts(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the length may take 8 times as long, not 64 times; the bound leaves room for noise."""
    monkeypatch.setattr("datastorage.records.scrub._MAX_CHARACTERS", 10**6)
    short, long = _seconds(pattern, 2048), _seconds(pattern, 16_384)
    assert long < 24 * short + 0.01


@given(st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=6), st.integers(1, 4000))
def test_no_mixture_of_hostile_parts_takes_long(parts: list[str], times: int) -> None:
    hostile = ("".join(parts) * times)[:16_384]
    spec = {
        "action": hostile,
        "message": hostile,
        "errorMessage": hostile[1:],
        "resourceRef": {"name": hostile},
    }
    started = time.process_time()
    embedding_text("AuditRecord", spec)
    assert time.process_time() - started < 2.0


@example(["pod checkout-bcdfgh-bcdfg"])
@example(["deadbeef-aaaa-bbbb-cccc-ddddeeeeffff"])
@example(["10.0.0.1"])
@example(["ip-10-0-0-1"])
@example(["fe80::1"])
@example(["09:26:53"])
@given(
    st.lists(
        st.sampled_from([*HOSTILE, "7d9f8bc4c6-x2k9p"])
        | st.text("0123456789abfgkxzABF-_.:@#/ ", max_size=12),
        max_size=8,
    )
)
def test_what_is_looked_for_first_is_in_every_match(parts: list[str]) -> None:
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_REMOVALS", "_HASHES"):
            all_tried = [replace(each, needs="", needs_digit=False) for each in getattr(scrub_module, name)]
            patch.setattr(scrub_module, name, all_tried)
        patch.setattr(scrub_module, "_LONG", re.compile(""))
        expected = scrub(text)
    assert scrub(text) == expected


def test_a_question_is_scrubbed_like_the_records() -> None:
    assert query_text("what happened to checkout-7d9f8bc4c6-x2k9p?") == "what happened to checkout?"


def test_a_question_of_an_identifier_alone_keeps_it() -> None:
    assert query_text(UUID) == UUID


@pytest.mark.parametrize("text", ["", " \t\n", "\0", "…?!"])
def test_a_question_without_words_is_none(text: str) -> None:
    assert query_text(text) == ""


def test_a_huge_question_is_cut() -> None:
    assert len(query_text("word " * 1_000_000)) <= MAX_EMBEDDED_CHARACTERS


def test_only_so_much_of_a_text_is_looked_at() -> None:
    assert len(scrub("word " * 1_000_000)) <= 4096


def test_the_hash_is_of_the_text_and_takes_any() -> None:
    assert text_hash("a").hex() == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert text_hash("\ud800") != text_hash("a")
