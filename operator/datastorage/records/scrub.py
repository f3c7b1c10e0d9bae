"""Removes from texts the identifiers, times and addresses in which otherwise equal events differ.

Every pattern is bounded in length, or matches only from the beginning of a run of characters, so that the
time is linear in the length of any text.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Final

# Four times the length that is kept of a text: room for what is removed, and a bound on the time.
_MAX_CHARACTERS: Final = 4096
# A word that is longer than this may be cut at any character.
_MAX_WORD_CHARACTERS: Final = 100

# A match next to a letter or digit is only a piece of a longer word, and stays.
_BEGIN: Final = r"(?<![0-9A-Za-z])"
_END: Final = r"(?![0-9A-Za-z])"
# These characters join an identifier to the word before it. They are removed with the identifier.
_JOINT: Final = r"[-_.@#]?"

_UNPRINTABLE: Final = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_MEANINGFUL: Final = re.compile(r"[^\W_]")

_ZONE: Final = r"(?: ?(?:Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))"
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = rf"{_DATE}(?:[Tt ](?:{_CLOCK}|[0-9]{{2}}:[0-9]{{2}}){_ZONE}{{0,2}})?"
_KLOG_DAY: Final = r"[IWEF][0-9]{4} "
_UUID: Final = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_IPV4: Final = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/[0-9]{1,2}|:[0-9]{1,5})?(?!\.[0-9])"
_IPV4_IN_NAME: Final = r"ip(?:-[0-9]{1,3}){4}"

# Kubernetes makes random names from these characters, which hardly spell words.
_RANDOM: Final = "[bcdfghjklmnpqrstvwxz2456789]"
_NO_WORD: Final = r"(?!(?:http2|https|grpcs|mssql|pgsql|smtps)\b)"
_MIXED: Final = r"(?=[a-z]{0,16}[0-9])(?=[0-9]{0,16}[a-z])"
_MIXED_HEX: Final = r"(?![0-9]{8,20}[Bb](?![0-9A-Za-z]))(?=[A-Fa-f]{0,64}[0-9])(?=[0-9]{0,64}[A-Fa-f])"
_AFTER_NAME: Final = r"(?<=[0-9A-Za-z])-"
_END_OF_NAME: Final = r"(?![0-9A-Za-z-])"

# Unix times from 2017 to 2036, and fractions of their seconds. Sizes in bytes have as many digits, so a
# number with a unit stays.
_EPOCH: Final = r"(?:1[5-9]|20)[0-9]{8}(?:(?:[0-9]{3}){1,3}|\.[0-9]{1,9})?"
_NO_UNIT: Final = r"(?! ?(?:bytes|[KMGT]i?B|ns|us|ms|s|seconds|requests|rows)\b)"


@dataclass(frozen=True, slots=True)
class _Removal:
    """A pattern whose matches are removed, and what each match has.

    Most texts lack that, and to find this out takes a hundredth of the time of trying the pattern.
    """

    pattern: re.Pattern[str]
    needs: str = ""
    """A part of every match."""
    needs_digit: bool = True
    """Whether every match has a digit."""
    replacement: str | Callable[[re.Match[str]], str] = " "


def _removal(pattern: str, needs: str = "", *, needs_digit: bool = True) -> _Removal:
    return _Removal(re.compile(pattern), needs, needs_digit)


def _suffix(pattern: str, *, needs_digit: bool = True) -> _Removal:
    return _Removal(re.compile(_AFTER_NAME + pattern), "-", needs_digit, "")


def _without_address(match: re.Match[str]) -> str:
    found = match.group()
    if not any(map(str.isdigit, found)):  # a::b is more likely a name in a program
        return found
    try:
        ipaddress.IPv6Address(found if found.endswith("::") else found.rstrip(":."))
    except ValueError:
        return found
    return " "


_IPV6_LIKE: Final = re.compile(rf"{_BEGIN}(?<![:.])[0-9A-Fa-f]{{0,4}}:[0-9A-Fa-f:.]{{1,42}}{_END}")
_REMOVALS: Final = (
    _removal(_JOINT + _BEGIN + _TIME + _END, "-"),
    _removal(_BEGIN + f"(?:{_KLOG_DAY})?{_CLOCK}{_ZONE}?" + _END, ":"),
    _removal(_JOINT + _BEGIN + _UUID + _END, "-", needs_digit=False),
    _removal(_BEGIN + _IPV4_IN_NAME + _END, "ip-"),
    _removal(_BEGIN + _IPV4 + _END, "."),
    _Removal(_IPV6_LIKE, ":", replacement=_without_address),
    _suffix(f"{_RANDOM}{{6,10}}-{_RANDOM}{{5}}{_END_OF_NAME}", needs_digit=False),  # a Deployment's Pod
    _suffix(f"[0-9]{{8,19}}(?:-{_RANDOM}{{5}})?{_END_OF_NAME}"),  # a CronJob's Job and Pod; a date, an epoch
    _suffix(f"{_NO_WORD}{_MIXED}{_RANDOM}{{5}}{_END_OF_NAME}"),  # a DaemonSet's or Job's Pod
    _suffix(f"{_MIXED}{_RANDOM}{{8,10}}{_END_OF_NAME}"),  # a ReplicaSet
)
_HASHES: Final = (
    _removal(_BEGIN + "0x[0-9A-Fa-f]{9,}" + _END, "0x"),  # shorter ones are error codes
    _removal(_JOINT + _BEGIN + f"(?:sha[0-9]{{1,3}}:)?{_MIXED_HEX}[0-9A-Fa-f]{{8,}}" + _END),
    _removal(_JOINT + _BEGIN + _EPOCH + _END + _NO_UNIT),
    _removal(_JOINT + _BEGIN + r"(?<!\.)[0-9]{12,}" + _END + _NO_UNIT),
)
_DIGIT: Final = re.compile("[0-9]")
# A part of every hash.
_LONG: Final = re.compile("[0-9A-Fa-f]{8}")
# One in five random suffixes has no digit. It may be a word in free text, but not at the end of a Pod's name.
_POD_SUFFIX: Final = re.compile(rf"{_AFTER_NAME}{_NO_WORD}{_RANDOM}{{5}}$")
_EMPTY_BRACKETS: Final = re.compile(r"""\( ?\)|\[ ?\]|\{ ?\}|< ?>|" ?"|' ?'|` ?`""")


def scrub(text: str) -> str:
    """Return a tidy text without identifiers, times, addresses and generated parts of names.

    Numbers with a meaning stay: 256Mi, 95%, 500ms, exit code 137, HTTP 503, v1.2.3.
    """
    text = tidy(text)
    # What is removed leaves no digit behind that was not there, nor a longer run of them.
    has_digit = _DIGIT.search(text) is not None
    for removal in chain(_REMOVALS, _HASHES if _LONG.search(text) is not None else ()):
        if removal.needs in text and (has_digit or not removal.needs_digit):
            text = removal.pattern.sub(removal.replacement, text)
    return " ".join(_EMPTY_BRACKETS.sub(" ", text).split())


def scrub_name(name: str, *, of_pod: bool) -> str:
    """Return an object's name as its owner chose it: checkout-7d9f8bc4c6-x2k9p becomes checkout."""
    return scrub(_POD_SUFFIX.sub("", name) if of_pod else name)


def tidy(text: str) -> str:
    """Return a text without control characters, surrogates and repeated spaces, and of bounded length."""
    return " ".join(_UNPRINTABLE.sub(" ", text[:_MAX_CHARACTERS]).split())


def is_meaningful(text: str) -> bool:
    """Return whether the text has a letter or a digit."""
    return _MEANINGFUL.search(text) is not None


def clip(text: str, max_characters: int) -> str:
    """Return the beginning of a text, cut between words."""
    if len(text) <= max_characters:
        return text
    blank = text.rfind(" ", max_characters - _MAX_WORD_CHARACTERS, max_characters + 1)
    return text[: blank if blank > 0 else max_characters].rstrip()
