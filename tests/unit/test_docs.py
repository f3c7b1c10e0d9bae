"""The documentation: its links work, and what it repeats agrees with the code and the examples."""

import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from datastorage.cli import reference
from datastorage.cli.app import OVERVIEW
from datastorage.cli.metricspage import metrics_page
from datastorage.cli.settingstable import settings_table
from datastorage.errors import DataStorageError
from datastorage.records.reasons import Reason
from datastorage.resources.kinds import Phase

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
MAX_COLUMNS = 120
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
ROLES = {"datastorage_owner", "datastorage_service", "datastorage_reader"}
# Names that are no settings: one that Kubernetes sets, one that only the tests read, and a mistake on a page.
OTHER_VARIABLES = {
    "DATASTORAGE_REDIS_SERVICE_HOST",
    "DATASTORAGE_TEST_DATABASE_URL",
    "DATASTORAGE_TTL_SECONDS",
}
ASK = re.compile(r"^ask\(\) \{$.*?^\}$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^ *```\w*$(.*?)^ *```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(
    rf"^ *(?:\$ )?(?:\w+=\S+ )*(?:kubectl (?:.* -- )?)?datastorage ((?:{'|'.join(OVERVIEW)})\b.*)"
)
HISTOGRAM_SUFFIX = re.compile(r"(_seconds|_bytes|_size)_(bucket|sum|count)$")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md")]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_their_anchors_exist(page: Path) -> None:
    assert list(_broken_links(page)) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#none) [c](none.md) [d](page.md#a-heading) `[e](f)`\n")
    assert list(_broken_links(page)) == ["#none", "none.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    """Tables, code and headings can't be wrapped."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    prose = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    assert [line for line in prose if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`([\w./-]+/[\w-]+\.(?:py|yaml|sql))`", page.read_text(encoding="utf-8"))
    folders = (ROOT, ROOT / "operator" / "datastorage")
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_metrics_that_are_named_exist(page: Path) -> None:
    """The changelog also names metrics that are gone, and the runbook series that rules record."""
    text = re.sub(r"\bnamespace_job:\S+", "", page.read_text(encoding="utf-8"))
    tables = metrics_page() + settings_table()
    names = set(re.findall(r"\bDATASTORAGE_[A-Z_]*[A-Z]\b(?!_)", text)) - OTHER_VARIABLES
    if page.name != "CHANGELOG.md":
        found = set(re.findall(r"\bdatastorage_[a-z_]+", text)) - ROLES
        names |= {HISTOGRAM_SUFFIX.sub(r"\1", name) for name in found}
    assert [name for name in sorted(names) if f"`{name}`" not in tables] == []


def test_every_phase_and_reason_is_explained() -> None:
    text = (REFERENCE / "status.md").read_text(encoding="utf-8")
    reasons = re.findall(r"^\| `(?:True|False)` \| `(\w+)` \|", text, re.MULTILINE)
    phases = re.findall(r"^\| `(\w+)` \| (?:both|ActionTrace) ", text, re.MULTILINE)
    assert set(reasons) == set(Reason)
    assert set(phases) == set(Phase) - {Phase.PENDING}  # the sentence below the table explains it


def test_every_page_below_docs_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked - {index} == set()


def test_the_examples_of_the_readme_are_those_of_the_file() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shown = [document for document in map(yaml.safe_load, blocks) if "kind" in document]
    _, *examples = yaml.safe_load_all((ROOT / "examples" / "first-record.yaml").read_text(encoding="utf-8"))
    assert shown == examples


def _commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command line in the blocks of a page, up to a pipe or a comment."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        for line in block.splitlines():
            for shown in COMMAND.findall(line):
                yield shlex.split(re.split(r" +# |\)? *[|;>&]", shown)[0])


def _parse(words: Sequence[str]) -> None:
    """Parse a command line as the program does. Raises TyperException if it would be refused."""
    program = typer.Typer(callback=lambda: None)
    program.add_typer(importlib.import_module(f"datastorage.cli.{OVERVIEW[words[0]].module}").commands)
    command = get_command(program)
    context = command.make_context("datastorage", list(words))
    while isinstance(command, TyperGroup) and (left := [*context._protected_args, *context.args]):
        name, inner, left = command.resolve_command(context, left)
        assert inner is not None
        command, context = inner, inner.make_context(name, left, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_program_takes_every_command_line(page: Path) -> None:
    refused = []
    for words in _commands(page):
        try:
            _parse(words)
        except typer.Exit:
            pass  # it has printed its help
        except typer.TyperException as error:
            refused.append((" ".join(words), error.format_message()))
    assert refused == []


def test_a_command_line_with_an_unknown_option_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = [
        "$ A=1 datastorage outbox | tail",
        "datastorage gc --dry",
        "$ datastorage outbox list \\",
        "  -o x",
    ]
    page.write_text("\n".join(["```", *lines, "```"]))
    shown = list(_commands(page))
    assert shown == [["outbox"], ["gc", "--dry"], ["outbox", "list", "-o", "x"]]
    _parse(shown[0])
    for words in shown[1:]:
        with pytest.raises(typer.TyperException):
            _parse(words)


def test_the_pages_ask_the_pods_in_one_way() -> None:
    """Each page that uses the function has it, to be copied from there."""
    found = [ASK.findall(page.read_text(encoding="utf-8")) for page in PAGES]
    definitions = [definition for each in found for definition in each]
    assert len(definitions) == 4
    assert len(set(definitions)) == 1


def test_the_generated_tables_are_up_to_date() -> None:
    reference.reference(REFERENCE, check=True)


def test_a_stale_table_is_refused_and_written_again(tmp_path: Path) -> None:
    pages = reference.reference_pages(REFERENCE)
    for name, text in pages.items():
        stale = text.replace("datastorage_batch_size", "old").replace("storeRecords", "old")
        (tmp_path / name).write_text(stale, encoding="utf-8")
    wanted = r"^not as generated: .*openapi\.json, .*metrics\.md; run 'make docs'$"
    with pytest.raises(DataStorageError, match=wanted):
        reference.reference(tmp_path, check=True)
    reference.reference(tmp_path)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in pages} == pages


def test_the_table_of_metrics_shows_names_as_prometheus_does() -> None:
    rows = [line.partition("(")[0] + line.partition(")")[2] for line in metrics_page().splitlines()]
    assert "| [`datastorage_build_info`] | info | `version` | 1 |" in rows
    assert "| [`datastorage_write_total`] | counter | `table`, `status` | 8 |" in rows
    assert "| [`datastorage_outbox_oldest_seconds`] | gauge |  | 1 |" in rows
    assert "| [`datastorage_query_duration_seconds`] | histogram | `operation` | 136 |" in rows
