"""Says which program this is, what it was built from, and what it runs on."""

import platform

from datastorage import __version__
from datastorage.api.version import revision


def version_text() -> str:
    """Return the lines that --version prints."""
    return (
        f"datastorage {__version__}\n"
        f"revision    {revision() or 'unknown'}\n"
        f"python      {platform.python_version()}\n"
        f"platform    {platform.system().lower()}/{platform.machine()}\n"
    )
