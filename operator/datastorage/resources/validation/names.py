"""The forms of names, labels and times in the metadata of Kubernetes."""

import re
from typing import Final

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL: Final = re.compile(_LABEL)
_DNS_SUBDOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

_MAX_LABEL: Final = 63  # characters, of RFC 1123
_MAX_SUBDOMAIN: Final = 253  # characters, of RFC 1123
_MAX_QUALIFIED: Final = _MAX_SUBDOMAIN + 1 + _MAX_LABEL
_GENERATED: Final = "xxxxx"  # the API server appends as many random characters to generateName


def is_dns_label(text: str) -> bool:
    """Return whether a text is a lower-case label of RFC 1123, as the name of a namespace is."""
    return len(text) <= _MAX_LABEL and _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Return whether a text is a lower-case subdomain of RFC 1123, as the names of objects are."""
    return len(text) <= _MAX_SUBDOMAIN and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_name_prefix(text: str) -> bool:
    """Return whether the API server accepts a generateName beside a name."""
    # It cuts the end of a prefix with a dash off, puts an "a" in its place, and checks that.
    return is_dns_subdomain(f"{text[:-2]}a" if len(text) > 1 and text.endswith("-") else text)


def makes_name(prefix: str) -> bool:
    """Return whether the API server makes a valid name from a generateName."""
    return is_name_prefix(prefix) and is_dns_subdomain(prefix[: _MAX_LABEL - len(_GENERATED)] + _GENERATED)


def is_qualified_name(text: str) -> bool:
    """Return whether a text is the key of a label: a name, with a DNS subdomain before a slash or without."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_dns_subdomain(prefix):
        return False
    return len(name) <= _MAX_LABEL and _QUALIFIED.fullmatch(name) is not None


def is_annotation_key(text: str) -> bool:
    """Return whether a text is the key of an annotation: that of a label in which case does not matter."""
    # Go's lower case of a character is one character: the sign for kelvin becomes a plain k.
    return len(text) <= _MAX_QUALIFIED and is_qualified_name("".join([sign.lower()[0] for sign in text]))


def is_label_value(text: str) -> bool:
    """Return whether a text may be the value of a label."""
    return not text or (len(text) <= _MAX_LABEL and _QUALIFIED.fullmatch(text) is not None)
