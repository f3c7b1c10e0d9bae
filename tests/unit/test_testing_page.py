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


def _missing(tests: set[str]) -> set[str]:
    """Return those that pytest does not collect. It is a process of its own, which starts no server."""
    options = ("--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", "--continue-on-collection-errors")
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *sorted(tests)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {line.partition("[")[0] for line in collected.stdout.splitlines() if "::" in line}
    absent = set(re.findall(rf"^ERROR: not found: .*/({_NAME})$", collected.stderr, re.MULTILINE))
    # pytest collects nothing if it can't find one of the names.
    return absent or tests - found


def _test_functions(module: Path) -> int:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sum(function.name.startswith("test_") for function in functions)


def test_every_requirement_has_tests() -> None:
    numbers = [int(number) for number, tests in _REQUIREMENT.findall(PAGE) if _TEST.search(tests)]
    assert numbers == list(range(1, REQUIREMENTS + 1))


def test_every_test_that_is_named_is_collected() -> None:
    assert _missing(set(_TEST.findall(PAGE))) == set()


def test_a_test_that_does_not_exist_is_found() -> None:
    gone = "tests/unit/test_testing_page.py::test_that_was_renamed"
    assert _missing({gone, "tests/unit/test_testing_page.py::test_every_requirement_has_tests"}) == {gone}


def test_the_numbers_of_tests_are_those_of_the_source() -> None:
    """The page names a number that there are at least, so that a new test changes it seldom."""
    counts = {
        folder: (int(m.replace(",", "")), int(f.replace(",", ""))) for folder, m, f in _COUNT.findall(PAGE)
    }
    assert set(counts) == {"tests/unit", "tests/storage", "e2e", "benchmarks"}
    for folder, (stated_modules, stated_functions) in counts.items():
        modules = list((ROOT / folder).rglob("test_*.py"))
        functions = sum(map(_test_functions, modules))
        assert stated_modules <= len(modules) <= stated_modules * MAX_GROWTH, folder
        assert stated_functions <= functions <= stated_functions * MAX_GROWTH, folder
