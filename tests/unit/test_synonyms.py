"""The members of groups that a question has, by stems; and what a search looks for in their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastorage.query.questionwords import wording
from datastorage.storage.synonyms import SynonymIndex, words_of

_STOP = frozenset(("a", "an", "did", "is", "it", "of", "out", "the", "up", "why"))
_GROUPS = (
    ("OOMKilled", "OOM", "out of memory", "memory exhausted"),
    ("certificate", "cert", "x509"),
    ("PersistentVolume", "PV"),
    ("PersistentVolumeClaim", "PVC"),
    ("scale up", "add replicas"),
    ("out of disk space", "disk full", "ENOSPC"),
    ("memory", "RAM"),
)


def _stems(words: list[str]) -> dict[str, str]:
    """Return stems as PostgreSQL does in so far as it matters here."""
    return {word: "" if word in _STOP else word.removesuffix("s").removesuffix("ed") for word in words}


_INDEX = SynonymIndex(_GROUPS, _stems(words_of(_GROUPS)))


def _found(question: str) -> dict[str, set[str]]:
    """Return the synonyms of each word of a question that has any."""
    asked = wording(question)
    words = [word for run in asked.runs for piece in run for text in piece for word in text.split()]
    found: dict[str, set[str]] = {}
    for synonym in _INDEX.synonyms(asked.runs, _stems(words)):
        found.setdefault(synonym.word, set()).add(synonym.text)
    return found


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("is the Cert expired", {"cert": {"certificate", "x509"}}),
        ("certificates", {"certificates": {"cert", "x509"}}),
        ("why did it run out of memory?", {"memory": {"oomkilled", "oom", "memory exhausted"}}),
        ("more memory, please", {"memory": {"ram"}}),
        ("x509: unknown authority", {"x509": {"certificate", "cert"}}),
        ("pvc", {"pvc": {"persistentvolumeclaim", "persistent volume claim"}}),
        ("scale up", {"scale": {"add replicas"}}),
        ("ENOSPC", {"enospc": {"disk full"}}),
        ("out of disk space", {"disk": {"disk full", "enospc"}, "space": {"disk full", "enospc"}}),
        ("out-of-memory", {"memory": {"oomkilled", "oom", "memory exhausted"}}),
        (
            "PersistentVolume",
            {"persistentvolume": {"pv"}, "persistent": {"pv"}, "volume": {"pv"}},
        ),
    ],
)
def test_a_member_is_found_in_each_of_its_forms(question: str, found: dict[str, set[str]]) -> None:
    assert _found(question) == found


@pytest.mark.parametrize(
    "question",
    [
        '"out of memory"', '"cert" shop', "shop -cert", 'shop -"out of memory"', "cert-manager", "cert_1",
        "registry/cert:v1", "checkout-pv", "out of the disk", "persistent", "cert.example.com",
        'add "replicas"',
    ],
)  # fmt: skip
def test_quoted_and_excluded_words_and_parts_of_identifiers_have_no_synonyms(question: str) -> None:
    assert _found(question) == {}


def test_the_longest_member_counts() -> None:
    assert _found("a persistent volume claim")["volume"] == {"persistentvolumeclaim", "pvc"}


def test_a_member_that_is_within_another_one_is_enough() -> None:
    assert "oom killed" not in _found("out of memory")["memory"]


def test_a_phrase_that_loses_a_word_at_its_end_is_not_searched_for() -> None:
    """Without "out of", it would be found in every record about disk space."""
    assert all("out of disk space" not in texts for texts in _found("disk full").values())
    assert all("scale up" not in texts for texts in _found("add replicas").values())


def test_a_question_without_end_has_a_bounded_number_of_synonyms() -> None:
    many = [tuple(f"w{n}x{m}" for m in range(24)) for n in range(500)]
    index = SynonymIndex(many, {word: word for word in words_of(many)})
    asked = wording(" ".join(f"w{n}x0" for n in range(500)))
    stems = {f"w{n}x0": f"w{n}x0" for n in range(500)}
    assert len(index.synonyms(asked.runs, stems)) == 128


def test_without_groups_there_are_no_synonyms() -> None:
    assert SynonymIndex((), {}).synonyms(wording("out of memory").runs, {}) == []


_QUESTIONS = st.lists(
    st.sampled_from(
        ("out", "of", "memory", "OOMKilled", "cert", "-cert", '"cert"', "x509", "PVC", "a-b", "disk", "full")
    ),
    min_size=1,
    max_size=12,
).map(" ".join)


@given(_QUESTIONS)
def test_synonyms_are_those_of_words_of_the_question_and_never_the_words_themselves(question: str) -> None:
    try:
        asked = wording(question)
    except Exception:  # noqa: BLE001  # only words to leave out
        return
    for word, texts in _found(question).items():
        assert word in asked.words
        assert word not in texts
