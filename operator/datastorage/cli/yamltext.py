"""Documents as YAML that every reader takes for the same."""

import re
from typing import Any, Final

import yaml

# Texts that a reader of YAML 1.1 or 1.2 may take for a number, a time or a truth value, unlike this library.
_AMBIGUOUS: Final = re.compile(r"[-+]?[._]*[0-9]|(?:y|n)\Z", re.IGNORECASE)


def as_yaml(value: Any) -> str:
    """Return a document as YAML."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Puts quotes around every text that needs escapes, or that a reader may take for another type."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if not all(character.isprintable() or character == "\n" for character in text):
        style = '"'
    elif _AMBIGUOUS.match(text):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)
