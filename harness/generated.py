"""Keeps files of the repository that are generated as they should be."""

from collections.abc import Mapping
from pathlib import Path


def stale(wanted: Mapping[Path, str], repository: Path) -> list[Path]:
    """Return the files that are not as they should be, by their paths in the repository."""
    return [
        path
        for path, text in wanted.items()
        if not (repository / path).exists() or (repository / path).read_text(encoding="utf-8") != text
    ]


def write(wanted: Mapping[Path, str], repository: Path) -> list[Path]:
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
