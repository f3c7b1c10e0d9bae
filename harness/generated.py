"""Keeps files of the repository that are generated as they should be."""

import sys
from collections.abc import Mapping
from pathlib import Path

from harness import REPOSITORY


def make(wanted: Mapping[Path, str], command: str, *, check: bool) -> int:
    """Write the files, or with ``check`` only look at them; say what came of it, and return the exit code.

    ``wanted`` has the text of each file by its path in the repository. ``command`` is what a person runs to
    write them.
    """
    if not check:
        for path in write(wanted):
            print(f"wrote {path}")
        return 0
    changed = stale(wanted)
    if changed:
        print(f"not as generated: {', '.join(map(str, changed))}; run '{command}'", file=sys.stderr)
    return 1 if changed else 0


def stale(wanted: Mapping[Path, str], repository: Path = REPOSITORY) -> list[Path]:
    """Return the files that are not as they should be, by their paths in the repository."""
    return [
        path
        for path, text in wanted.items()
        if not (repository / path).exists() or (repository / path).read_text(encoding="utf-8") != text
    ]


def write(wanted: Mapping[Path, str], repository: Path = REPOSITORY) -> list[Path]:
    """Write the files that are not as they should be, and return them."""
    changed = stale(wanted, repository)
    for path in changed:
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(wanted[path], encoding="utf-8")
    return changed


def with_section(page: str, begin: str, section: str, end: str) -> str:
    """Return a page with another text between two of its lines; all else on it is written by hand.

    Raises:
        ValueError: the page lacks one of the lines.
    """
    before, found, rest = page.partition(f"{begin}\n")
    _, ended, after = rest.partition(f"{end}\n")
    if not found or not ended:
        raise ValueError(f"a page has no place between {begin} and {end}")
    return f"{before}{begin}\n{section}{end}\n{after}"
