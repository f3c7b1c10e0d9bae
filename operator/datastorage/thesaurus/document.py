"""Reads the text of a thesaurus, and says what is wrong with it: where, and how to mend it."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from datastorage.errors import ConfigurationError
from datastorage.records.words import plain, with_pairs

Group = tuple[str, ...]
"""Words and phrases that mean the same."""

MAX_GROUPS: Final = 500
MAX_MEMBERS: Final = 24
MAX_CHARACTERS: Final = 100
"""The longest word or phrase, in characters."""
MAX_WORDS: Final = 8
"""The most words of a phrase."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEYS: Final = ("builtin", "groups")


@dataclass(frozen=True)
class Document:
    """What a thesaurus says."""

    groups: Mapping[str, Group]
    """Groups by their names. An empty one leaves the group of that name out."""
    builtin: bool = True
    """Whether the groups of the program, which are not replaced, count as well."""


def parse(text: str, source: str, known: Sequence[str] = ()) -> Document:
    """Return what a thesaurus says. ``known`` are the names of the groups that it may leave out.

    Raises ConfigurationError, which begins with ``source``.
    """
    try:
        return _Reader(text, known).document()
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{source} is not TOML: {_lowered(str(error))}: write each group once, "
            'as NAME = ["word", "other word"], below [groups]'
        ) from None
    except _FaultError as fault:
        raise ConfigurationError(f"{source}{fault}") from None


class _FaultError(Exception):
    """What is wrong; the text continues after the name of the file."""


class _Reader:
    def __init__(self, text: str, known: Sequence[str]) -> None:
        self._text = text
        self._known = known

    def document(self) -> Document:
        content = tomllib.loads(self._text)
        for key in content:
            if key not in _KEYS:
                raise self._fault(key, f"{key!r} is unknown here: put groups below the line [groups]")
        builtin = content.get("builtin", True)
        if not isinstance(builtin, bool):
            raise self._fault("builtin", "builtin has to be true or false")
        groups = content.get("groups", {})
        if not isinstance(groups, dict):
            raise self._fault("groups", "put groups below the line [groups], each as NAME = [WORDS]")
        if len(groups) > MAX_GROUPS:
            raise _FaultError(f" has {len(groups):,} groups, and {MAX_GROUPS} are allowed: remove some")
        return Document(
            {name: self._group(name, members, builtin=builtin) for name, members in groups.items()}, builtin
        )

    def _group(self, name: str, members: Any, *, builtin: bool) -> Group:
        if _NAME.fullmatch(name) is None:
            raise self._of_group(name, "a name has small letters, digits and hyphens, at most 63: rename it")
        if name == "builtin" and isinstance(members, bool):
            raise self._fault(name, "builtin belongs above the line [groups]: move it there")
        if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
            raise self._of_group(name, 'write its members as ["word", "other word"]')
        if not members:
            self._check_left_out(name, builtin=builtin)
        elif len(members) == 1:
            raise self._of_group(name, "it has one member: add a synonym, or remove the group")
        if len(members) > MAX_MEMBERS:
            raise self._of_group(
                name, f"it has {len(members)} members, and {MAX_MEMBERS} are allowed: make two groups of it"
            )
        words = [self._words(name, member) for member in members]
        for number, each in enumerate(words):
            if each in words[:number]:
                raise self._of_group(name, f"it has {members[number]!r} twice: remove one of them")
        return tuple(members)

    def _check_left_out(self, name: str, *, builtin: bool) -> None:
        if not builtin:
            raise self._of_group(name, "it is empty, and builtin = false leaves out all others: remove it")
        if name not in self._known:
            close = difflib.get_close_matches(name, self._known, n=1)
            raise self._of_group(
                name,
                "it is empty, which leaves out a group of the program, but there is none of this name: "
                + (f"did you mean {close[0]!r}?" if close else "remove it"),
            )

    def _words(self, name: str, member: str) -> str:
        """Return the words of a member, which are its meaning for a search."""
        if len(member) > MAX_CHARACTERS:
            raise self._of_group(
                name, f"a member has {len(member)} characters, and {MAX_CHARACTERS} are allowed: shorten it"
            )
        words = with_pairs(plain(member)).lower().split()
        if not words:
            raise self._of_group(name, f"{member!r} has no letters or digits: remove it")
        if len(words) > MAX_WORDS:
            raise self._of_group(
                name, f"{member!r} has {len(words)} words, and {MAX_WORDS} are allowed: shorten it"
            )
        return " ".join(words)

    def _of_group(self, name: str, what: str) -> _FaultError:
        return self._fault(name, f"group {name!r}: {what}")

    def _fault(self, key: str, what: str) -> _FaultError:
        line = next(self._lines_of(key), None)
        return _FaultError(f"{'' if line is None else f', line {line}'}: {what}")

    def _lines_of(self, key: str) -> Iterator[int]:
        """Yield the lines that begin with a key. The parser says none."""
        begins = re.compile(rf"\s*\[?\s*(?:groups\s*\.\s*)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
        for number, line in enumerate(self._text.splitlines(), 1):
            if begins.match(line):
                yield number


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
