"""docs/reference/testing.md: its numbers agree with the source, and the tests that it names exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
REQUIREMENTS: Final = 20
MAX_GROWTH: Final = 1.2  # of a number before the page has to name a new one

_REQUIREMENT = re.compile(r"^\| BR-STORAGE-(\d{3}) [a-z ]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
_COUNT = re.compile(r"^\| `([\w/]+)` \| ([\d,]+) \| ([\d,]+) \|$", re.MULTILINE)
_NAME = r"(?:tests|e2e|benchmarks)/[\w/]+\.py::\w+"
_TEST = re.compile(rf"`({_NAME})`")


_KUBECONFIG: Final = """
apiVersion: v1
kind: Config
current-context: kind-datastorage-e2e
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: kind-datastorage-e2e, context: {cluster: none, user: none}}]
"""
"""Names a cluster: only with one does pytest collect ``e2e/installed``. Nothing is asked there."""


def _not_found(tests: set[str], kubeconfig: Path) -> set[str]:
    """Return those that pytest does not find. It is a process of its own, which starts no server."""
    kubeconfig.write_text(_KUBECONFIG, encoding="utf-8")
    options = ("--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", f"--kubeconfig={kubeconfig}")
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *sorted(tests)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return set(re.findall(rf"^ERROR: not found: .*/({_NAME})$", collected.stderr, re.MULTILINE))


def _test_functions(module: Path) -> int:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sum(function.name.startswith("test_") for function in functions)


def test_every_requirement_has_tests() -> None:
    numbers = [int(number) for number, tests in _REQUIREMENT.findall(PAGE) if _TEST.search(tests)]
    assert numbers == list(range(1, REQUIREMENTS + 1))


def test_every_test_that_is_named_is_collected(tmp_path: Path) -> None:
    """One more, which does not exist, shows that pytest would say so. (A start of pytest takes seconds.)"""
    gone = "tests/unit/test_testing_page.py::test_that_was_renamed"
    assert _not_found({*_TEST.findall(PAGE), gone}, tmp_path / "kubeconfig") == {gone}


def test_the_numbers_of_tests_are_those_of_the_source() -> None:
    """The page names a number that there are at least, so that a new test changes it seldom."""
    counts = {
        folder: (int(m.replace(",", "")), int(f.replace(",", ""))) for folder, m, f in _COUNT.findall(PAGE)
    }
    assert set(counts) == {"tests/unit", "tests/storage", "tests/rules", "e2e", "benchmarks"}
    for folder, (stated_modules, stated_functions) in counts.items():
        modules = list((ROOT / folder).rglob("test_*.py"))
        functions = sum(map(_test_functions, modules))
        assert stated_modules <= len(modules) <= stated_modules * MAX_GROWTH, folder
        assert stated_functions <= functions <= stated_functions * MAX_GROWTH, folder
