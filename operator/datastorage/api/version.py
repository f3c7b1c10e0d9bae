"""GET /version: which program this is, for people and for clients that support several versions."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import datastorage

NAME: Final = "kubernaut-datastorage"
API_VERSION: Final = "v1"
# The build of the image writes it (Dockerfile).
_REVISION_FILE: Final = Path(datastorage.__file__).parent / "revision.txt"


@cache
def revision() -> str | None:
    """Return the commit that the program was built from; None if that is not known."""
    try:
        found = _REVISION_FILE.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if found and found != "unknown" else None


def version() -> dict[str, Any]:
    """Return the answer."""
    return {
        "name": NAME,
        "version": datastorage.__version__,
        "revision": revision(),
        "apiVersion": API_VERSION,
    }
