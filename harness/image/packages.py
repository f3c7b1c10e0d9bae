"""Finds the Debian packages that the image has files of, for scanners, licences and the list of parts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_DPKG: Final = Path("var/lib/dpkg")


def owners(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the packages that files belong to, by name, each with its paragraph of dpkg's status.

    Empty on a base that is not Debian's.
    """
    owner = {}
    for listing in sorted((root / _DPKG / "info").glob("*.list")):
        for line in listing.read_text(encoding="utf-8").splitlines():
            owner[_merged(line)] = listing.stem.partition(":")[0]
    names = {owner[str(path)] for path in files if str(path) in owner}
    status = root / _DPKG / "status"
    paragraphs = status.read_text(encoding="utf-8").split("\n\n") if names else []
    found = {fields(paragraph)["Package"]: paragraph for paragraph in paragraphs if paragraph.strip()}
    return {name: f"{found[name].strip()}\n" for name in sorted(names)}


def fields(paragraph: str) -> Mapping[str, str]:
    """Return the fields of a paragraph, each with its first line."""
    lines = (line.partition(":") for line in paragraph.splitlines() if not line.startswith((" ", "\t")))
    return {name: value.strip() for name, _, value in lines}


def _merged(path: str) -> str:
    """Return where a file really is: packages name /lib and /bin, which are links into /usr."""
    return f"/usr{path}" if path.startswith(("/lib", "/bin/", "/sbin/")) else path
