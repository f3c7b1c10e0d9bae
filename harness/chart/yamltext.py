"""Writes parsed manifests as templates of Helm: YAML with actions in some places.

Put an ``inline`` in the place of a value, and a ``block`` in the place of an item of a list. In the place of
a key, a block stands with the value None. The indentation of the place is added to each line of a block, and
to each number after ``nindent +``.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import yaml

_PLACE: Final = re.compile(r"__(INLINE|BLOCK)_(\d+)__")
_NINDENT: Final = re.compile(r"nindent \+(\d+)")


class _Dumper(yaml.SafeDumper):
    """Indents the items of a list, as the manifests do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, ARG002  # as in PyYAML
        super().increase_indent(flow, False)  # noqa: FBT003  # as in PyYAML

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # as in PyYAML
        """Write what occurs twice in full: an anchor would tie two places together."""
        return True


class TemplateText:
    """Collects the actions of one template while its object is edited, and writes the template."""

    def __init__(self) -> None:
        self._actions: list[str] = []

    def inline(self, action: str) -> str:
        """Return what stands for an action that makes a value."""
        return self._place("INLINE", action)

    def block(self, *lines: str) -> str:
        """Return what stands for whole lines of template text."""
        return self._place("BLOCK", "\n".join(lines))

    def dump(self, document: Any) -> str:
        """Return a document for a block, with everything in it kept from being an action."""
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
        return text.replace("{{", '{{ "{{" }}')

    def write(self, document: Any) -> str:
        """Return a document with its actions in their places."""
        return "".join(f"{line}\n" for line in self._filled(self.dump(document).splitlines()))

    def _place(self, kind: str, action: str) -> str:
        self._actions.append(action)
        return f"__{kind}_{len(self._actions) - 1}__"

    def _filled(self, lines: Iterable[str]) -> Iterable[str]:
        for line in lines:
            indentation = len(line) - len(line.lstrip(" "))
            match = _PLACE.search(line)
            if match is None:
                yield line
            elif match.group(1) == "BLOCK":
                inner = self._action(match, indentation).split("\n")
                yield from self._filled([" " * indentation + each for each in inner])
            else:
                yield line.replace(match.group(), self._action(match, indentation))

    def _action(self, place: re.Match[str], indentation: int) -> str:
        def moved(match: re.Match[str]) -> str:
            return f"nindent {indentation + int(match.group(1))}"

        return _NINDENT.sub(moved, self._actions[int(place.group(2))])
