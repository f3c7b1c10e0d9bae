"""Every value of a spec is among the words that its record is searched by, within bounds."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.query.questionwords import wording
from datastorage.records import words
from datastorage.records.words import camel_case_parts, in_one_form, plain, with_pairs, words_in
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from datastorage.resources.models.action_trace import ActionTraceSpec
from datastorage.resources.models.audit_record import AuditRecordSpec
from datastorage.resources.models.base import Model
from datastorage.resources.reading.registry import reading_of
from datastorage.resources.reading.specwords import _FREE, _NAMES, _TIMES, MAX_CHARACTERS
from harness.objects import AUDIT_SPEC, TRACE_SPEC
from harness.strategies import action_trace_specs, audit_record_specs

_AUDIT, _TRACE = reading_of(AUDIT_RECORD), reading_of(ACTION_TRACE)
_MAX_INTEGER = 2**256


def _audit(**fields: Any) -> list[str]:
    return _AUDIT.words({**AUDIT_SPEC, **fields}).split()


def _trace(**fields: Any) -> list[str]:
    return _TRACE.words({**TRACE_SPEC, **fields}).split()


def _values(value: Any, name: str = "", *, is_free: bool = False) -> Iterator[str]:
    """Yield every text of a spec but times; from where anything may stand, numbers and names too."""
    match value:
        case dict():
            for key, below in value.items():
                if is_free:
                    yield key
                yield from _values(below, key, is_free=is_free or key in _FREE)
        case list():
            for below in value:
                yield from _values(below, name, is_free=is_free)
        case str():
            if is_free or name not in _TIMES:
                yield value
        case bool() | None:
            return
        case int() | float():
            if is_free:
                yield str(value)


def _words(text: str) -> set[str]:
    return set(with_pairs(plain(text)).lower().split())


@given(audit_record_specs())
def test_every_value_of_an_audit_record_is_searched(spec: Mapping[str, Any]) -> None:
    assert set().union(*map(_words, _values(spec))) <= set(_AUDIT.words(spec).lower().split())


@given(action_trace_specs())
def test_every_value_of_an_action_trace_is_searched(spec: Mapping[str, Any]) -> None:
    assert set().union(*map(_words, _values(spec))) <= set(_TRACE.words(spec).lower().split())


def _names_in(model: type[Model]) -> Iterator[str]:
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})


def test_the_names_of_the_models_are_no_words() -> None:
    assert {*_names_in(AuditRecordSpec), *_names_in(ActionTraceSpec)} == _NAMES


def test_the_main_texts_come_first_and_names_last() -> None:
    words = _audit(
        details={"zone": "blue"}, message="said", cluster="green", resourceRef={"kind": "Pod", "name": "p"}
    )
    main, rest = words[:5], words[5:]
    assert main == ["restart", "deployment", "said", "Pod", "p"]
    assert rest == ["rr", "2026", "0042", "green", "Remediation", "Completed", "blue", "zone"]


def test_texts_are_searched_once() -> None:
    spec = {
        "alert": {"name": "nodefull"},
        "model": {"reasoning": "why"},
        "execution": {"status": "Failed", "error": "denied"},
        "effectiveness": {"notes": "none"},
    }
    words = _trace(**spec)
    assert [words.count(word) for word in ("nodefull", "why", "denied", "none", "payments", "api")] == [1] * 6


def test_times_and_the_numbers_of_models_are_left_out() -> None:
    words = _audit(
        startTime="2031-01-01T00:00:00Z", aiAnalysis={"tokensUsed": 7347}, details={"time": "7am", "n": 137}
    )
    assert not {"2031", "7347"} & set(words)
    assert {"7am", "137", "time", "n"} <= set(words)


def test_true_and_false_are_no_words_but_their_names_are() -> None:
    words = _audit(details={"oomKilled": True, "evicted": None})
    assert {"oomKilled", "oom", "evicted"} <= {*words, *(word.lower() for word in words)}
    assert not {"True", "true", "None", "null"} & set(words)


def test_what_a_later_version_adds_is_searched() -> None:
    assert {"laterfield", "later", "137"} <= set(_trace(laterfield={"of": ["later", 137]}))
    assert {"added", "inside"} <= set(_trace(model={"added": "inside"}))


def test_large_values_leave_room_for_what_is_short() -> None:
    huge = " ".join(f"filler{n}" for n in range(20_000))
    words = _audit(details={"log": huge}, cluster="edge7", actor={"kind": "User", "name": "n.okafor"})
    assert {"edge7", "okafor", "filler0"} <= set(words)
    assert "filler19999" not in words
    alert = {"name": "a", "annotations": {"text": huge}, "fingerprint": "cafe01", "labels": {}}
    words = _trace(alert=alert, stateBefore={"log": huge}, parameters={"to": "target9"})
    assert {"cafe01", "target9"} <= set(words)


@pytest.mark.parametrize(
    "details",
    [
        "x " * 100_000,
        ["y"] * 200_000,
        [[]] * 200_000,
        {f"k{n}": n for n in range(100_000)},
        [1.5] * 100_000,
        10**5_000,
        "\ufdfa" * 65_536,
        "磁盘" * 60_000,
    ],
    ids=["words", "texts", "lists", "names", "numbers", "digits", "forms", "pairs"],
)
def test_the_words_are_bounded(details: Any) -> None:
    words = _AUDIT.words({**AUDIT_SPEC, "message": "z" * 1_000, "details": details})
    assert len(words) <= 4 * MAX_CHARACTERS


def test_deep_nesting_is_read_to_a_bound() -> None:
    for names in (("model",), ("parameters", "a"), ("unknown",)):
        spec: Any = "bottom"
        for number in range(9_000):
            spec = {names[number % len(names)]: spec}
        assert "bottom" not in _trace(**spec)
    shallow: Any = "bottom"
    for _ in range(20):
        shallow = {"a": [shallow]} if isinstance(shallow, str) else {"a": shallow}
    assert "bottom" in _trace(parameters=shallow)


def test_lone_surrogates_and_nul_can_be_stored() -> None:
    words = _AUDIT.words({**AUDIT_SPEC, "details": {"a\ud800": "b\0c\udfff"}})
    words.encode()
    assert "\0" not in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("磁盘空间不足", "磁盘 盘空 空间 间不 不足"),
        ("Pod重启3次", "pod 重启 3 次"),
        ("会社名の文字化け", "会社 社名 名の の文 文字 字化 化け"),
        ("메모리 부족", "메모 모리 부족"),
        ("髙", "髙"),
        ("ｻｰﾊﾞｰ", "サー ーバ バー"),
        ("\U00020000\U00020001a", "\U00020000\U00020001 a"),
    ],
)
def test_scripts_without_spaces_are_searched_in_pairs(text: str, words: str) -> None:
    assert with_pairs(plain(text)).split() == words.split()


@given(st.text("磁盘空间不足のア메a 1。", min_size=2, max_size=30), st.data())
def test_any_part_of_such_a_text_has_its_pairs_in_the_same_order(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 2))
    part = text[start : data.draw(st.integers(start + 2, len(text)))]
    pairs = [pair for pair in with_pairs(plain(part)).split() if len(pair) == 2 and not pair.isascii()]
    everything = with_pairs(plain(text)).split()
    places = iter(everything)
    assert all(pair in places for pair in pairs), (part, everything)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("\uff25\uff32\uff32\uff3f\uff14\uff10\uff14", "ERR_404"),
        ("gro\u0308ße", "größe"),
        ("\ufb01le", "file"),
        ("ｻｰﾊﾞｰ", "サーバー"),
    ],
)
def test_forms_of_a_character_are_the_same_on_both_sides(typed: str, stored: str) -> None:
    for asked, said in ((typed, stored), (stored, typed)):
        found = {word.lower() for word in _audit(details=said)}
        assert set(wording(asked).words) <= found


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_words_of_ascii_are_split_like_all_others(text: str) -> None:
    folded = normalize("NFKC", text)
    expected = "".join(c if c.isalnum() else " " for c in folded).split()
    assert plain(text).split() == expected


def test_words_in_camel_case() -> None:
    words = ("ImagePull", "OOMKilled", "m6iLarge", "Deployment", "OOM", "x" * 100 + "Y" * 50)
    assert camel_case_parts(words) == ["Image Pull", "OOM Killed", "m6i Large"]


def test_long_words_are_not_kept_in_memory() -> None:
    """Whoever may create records chooses them, and there may be thousands of 64 KB."""
    kept = words._parts.cache_info().currsize
    camel_case_parts(f"A{number}" + "B" * 60_000 for number in range(10))
    assert words._parts.cache_info().currsize == kept


def test_accents_without_end_are_never_sorted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take eight seconds, and twice as many accents four times as long."""
    lengths: list[int] = []

    def counted(form: Literal["NFKC"], text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(words, "normalize", counted)
    many = "\u0301\u0316" * 32_000
    assert words_in(f"first a{many} last") == ["first", "\u00e1", "last"]
    assert _audit(message=f"first a{many}")[:4] == ["restart", "deployment", "first", "\u00e1"]
    assert max(lengths) <= 500


@given(st.lists(st.text(max_size=400), max_size=5), st.sampled_from([" ", "-", "x"]))
def test_a_text_is_in_one_form_across_all_pieces(texts: list[str], between: str) -> None:
    text = between.join(texts)
    assert in_one_form(text) == normalize("NFKC", text)


@pytest.mark.parametrize("unit", ["\u1112\u1161\u11ab", "\uff8a\uff9e", "e\u0301", "\u78c1", "\ufb01"])
def test_a_text_without_a_space_is_in_one_form(unit: str) -> None:
    for before in ("", "a", "ab"):
        text = before + unit * 3_000
        assert in_one_form(text) == normalize("NFKC", text)
