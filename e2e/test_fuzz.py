"""Requests that schemathesis makes from the OpenAPI document get no answer that it does not describe.

The operator, its database, the API server and the token are real. `make test` sends the same few requests
each time; `make fuzz` sends others for minutes, with a new seed.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.storing import Callers
from e2e.workbench import Workbench

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
ROLES = ("datastorage-writer", "datastorage-archive-reader", "datastorage-archive-exporter")
# The phase of coverage, a thousand requests for the edges of each schema, is left to `make fuzz`.
FEW = ("--phases", "examples,fuzzing,stateful", "--max-examples", "30", "--generation-deterministic")
REQUEST_SECONDS = 30
MINUTES = float(os.environ.get("DATASTORAGE_TEST_FUZZ_MINUTES", "10"))


def fuzz(url: str, token: str, directory: Path, *arguments: str) -> None:
    """Run schemathesis against an operator. Raises AssertionError, which shows what it has found."""
    directory.mkdir()
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run",
            f"{url}/openapi.json", "--header", f"Authorization: Bearer {token}", "--checks", "all",
            "--request-timeout", str(REQUEST_SECONDS), "--suppress-health-check", "all", "--warnings", "off",
            "--no-color", *arguments,
        ],
        capture_output=True, text=True, check=False, cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-50_000:] + done.stderr


@pytest.fixture
def token(workbench: Workbench) -> Iterator[str]:
    """Provide the token of a caller that may do everything everywhere."""
    made = Callers(workbench.cluster, workbench.namespace)
    yield made.token("fuzzer", *ROLES, everywhere=True)
    made.close()


def test_every_answer_is_documented(workbench: Workbench, token: str, tmp_path: Path) -> None:
    url = workbench.start_operator().api_url
    fuzz(url, token, tmp_path / "fuzz", *FEW)


@pytest.mark.fuzz
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_every_answer_is_documented_for_minutes(workbench: Workbench, token: str, tmp_path: Path) -> None:
    url = workbench.start_operator().api_url
    fuzz(url, token, tmp_path / "fuzz", "--max-time", str(int(MINUTES * 60)))
