"""Tests that run on a user's kubeconfig use only clusters that are allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY
from harness.controlplane import ControlPlaneError
from harness.controlplane.cluster import CONTEXT, kubeconfig
from harness.controlplane.contexts import choose_context


@pytest.fixture
def own_config(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    path.write_text(kubeconfig("admin", {}, {}))
    return path


@pytest.fixture
def production(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text("current-context: production")
    return path


def test_current_context_is_used_when_it_is_on_the_list(own_config: Path) -> None:
    assert choose_context(own_config, None) == CONTEXT


def test_current_context_off_the_list_is_refused(production: Path) -> None:
    with pytest.raises(ControlPlaneError, match="--allow-context production"):
        choose_context(production, None)


def test_named_context_goes_before_the_current_one(own_config: Path, production: Path) -> None:
    assert choose_context(production, "kind-datastorage-e2e") == "kind-datastorage-e2e"
    with pytest.raises(ControlPlaneError, match="--allow-context production"):
        choose_context(own_config, "production")


def test_allowed_context_must_match_exactly(production: Path) -> None:
    assert choose_context(production, None, ["production"]) == "production"
    with pytest.raises(ControlPlaneError):
        choose_context(production, None, ["prod", "production-2"])


@pytest.mark.parametrize("content", ["", "{}", "current-context: ''", "][", "[]"])
def test_unusable_kubeconfig_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ControlPlaneError, match=str(path)):
        choose_context(path, None)


def test_pytest_stops_before_any_test(production: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        __file__,
        "--kubeconfig",
        str(production),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--allow-context production" in done.stderr
    assert "passed" not in done.stdout
