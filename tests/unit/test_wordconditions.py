"""The conditions on the records that are ranked for a question."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from datastorage.records.record import Table
from datastorage.storage.questionforms import Form, QuestionWords
from datastorage.storage.wordconditions import WordConditions, word_conditions

_RARE = Form("'oom'", 0.01, 4.6)
_COMMON = Form("'pod'", 0.6, 0.5, ("'container'",), 0.05, 0.45)


def _words(*forms: Form) -> QuestionWords:
    return QuestionWords(forms, 2_000, 0.004, frozenset(Table), {}, datetime(2026, 1, 1, tzinfo=UTC))


def _conditions(*forms: Form, room: float = 0.02) -> WordConditions:
    return word_conditions(_words(*forms), room, (), ())


def test_the_rarest_words_select_as_long_as_there_is_room() -> None:
    assert _conditions(_COMMON, _RARE).words == "(('oom'))"
    assert _conditions(_COMMON, _RARE).all_words == "('pod') & ('oom')"
    with_room = _conditions(_COMMON, _RARE, room=0.62)
    assert with_room.words == "(('oom') | ('pod'))"
    assert with_room.words_share == pytest.approx(0.61)
    assert not with_room.are_common


def test_of_several_words_all_are_a_condition_however_many_select() -> None:
    """More records may have one of them than are ranked, and the best of these be older."""
    assert _conditions(_COMMON, _RARE, room=0.7).all_words == "('pod') & ('oom')"
    assert _conditions(_RARE).all_words is None


def test_the_rarest_word_selects_even_where_it_is_common() -> None:
    found = _conditions(_COMMON)
    assert found.words == "(('pod'))"
    assert found.words_share == 0.6
    assert found.are_common


def test_synonyms_have_a_condition_of_their_own_where_there_is_no_room_for_them() -> None:
    word = replace(_COMMON, share=0.01)
    assert _conditions(word).words == "(('pod'))"
    assert _conditions(word).synonyms == "((('container')))"
    assert _conditions(word).synonyms_share == 0.05
    assert _conditions(word, room=0.1).words == "(('pod') | (('container')))"
    assert _conditions(word, room=0.1).words_share == pytest.approx(0.06)
    assert _conditions(word, room=0.1).synonyms is None


def test_synonyms_of_a_word_that_most_records_have_select_nothing_where_there_is_no_room() -> None:
    assert _conditions(_COMMON).synonyms is None
    assert _conditions(_COMMON, room=0.62).words == "(('pod'))"
    assert _conditions(_COMMON, room=0.62).synonyms is None
    assert _conditions(_COMMON, room=1).words == "(('pod') | (('container')))"
    assert _conditions(replace(_COMMON, share=0.49)).synonyms == "((('container')))"


def test_phrases_select_alone_and_what_is_excluded_is_in_no_record() -> None:
    found = word_conditions(_words(Form("'a'", 0.1, 2), Form("'b'", 0.1, 2)), 0.02, ["'a' <-> 'b'"], ["'c'"])
    assert found == WordConditions("('a' <-> 'b') & !('c')", 1.0, all_words_share=0.004)
    beside = word_conditions(_words(Form("'a'", 0.1, 2), _RARE), 0.02, ["'a' <-> 'b'"], ["'c'"])
    assert beside == replace(found, all_words="('a' <-> 'b') & ('oom') & !('c')")
    part = word_conditions(_words(Form("'a'", 0.1, 2)), 0.02, ["'1e9' <-> 'a':*"], ())
    assert part.all_words == "('1e9' <-> 'a':*) & ('a')", "the phrase has longer words, too"
    of_words = word_conditions(_words(_COMMON, _RARE), 0.02, (), ["'c'"])
    assert of_words.words.endswith(" & !('c')")
    assert of_words.all_words is not None
    assert of_words.all_words.endswith(" & !('c')")
    assert of_words.all_words_share == 0.004
    of_synonyms = word_conditions(_words(replace(_COMMON, share=0.1)), 0.02, (), ["'c'"])
    assert of_synonyms.synonyms == "((('container'))) & !('c')"
