"""The user's cache folder, where everything is kept that is built once per machine."""

import os
from pathlib import Path


def cache_directory(of: str = "controlplane") -> Path:
    """Return the cache folder of the control plane's programs, or of another part of the harness."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(cache) / "kubernaut-datastorage" / of).absolute()
