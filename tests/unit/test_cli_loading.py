"""Each command loads the libraries of the way that it takes and no others, since users wait for them."""

import os
import subprocess
import sys
from typing import Final

from datastorage.settings import setting_names
from datastorage.variables import CLIENT_VARIABLES

# Runs commands one after another; the last line that it prints has the modules that are loaded in the end.
_PROGRAM: Final = """
import sys
from datastorage.cli import main
from datastorage.cli.completion import complete_for_kubectl
for command in sys.argv[1:]:
    sys.argv = ["datastorage", *command.split()]
    try:
        main() if command != "complete" else complete_for_kubectl(main, ["list", "--kind", ""])
    except SystemExit as end:
        print("exit", end.code, *sys.argv)
print(*sys.modules)
"""
_QUESTIONS: Final = (
    "list", "get shop/one", "timeline rr-1", "history Pod/shop/api", "summary", "export",
    "search x --mode text",
)  # fmt: skip
_OF_THE_OPERATOR: Final = {"alembic", "fastapi", "kopf", "redis", "sqlalchemy", "uvicorn"}
_OF_VECTORS: Final = {"numpy", "onnxruntime", "tokenizers", "wordllama"}
_OF_A_DATABASE: Final = {"asyncpg", "datastorage.settings"}
_OF_A_SERVER: Final = {"aiohttp"}


def _loaded(*commands: str, code: int, **variables: str) -> set[str]:
    """Return the modules that are loaded after commands, each of which must end with this exit code."""
    ours = {*setting_names(), *CLIENT_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *commands],
        capture_output=True, text=True, check=True, timeout=60,
        env={name: value for name, value in os.environ.items() if name not in ours} | variables,
    )  # fmt: skip
    *printed, modules = done.stdout.splitlines()
    ends = [line for line in printed if line.startswith("exit ")]
    expected = [f"exit {code} datastorage {command}" for command in commands if command != "complete"]
    assert ends == expected, done.stderr
    return set(modules.split())


def test_a_question_to_a_database_loads_nothing_of_vectors_and_servers() -> None:
    loaded = _loaded(*_QUESTIONS, code=1, DATASTORAGE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert loaded >= {"asyncpg", "datastorage.settings"}
    assert not loaded & (_OF_THE_OPERATOR | _OF_VECTORS | _OF_A_SERVER)


def test_a_question_to_a_server_loads_nothing_of_databases() -> None:
    loaded = _loaded(*_QUESTIONS, code=1, DATASTORAGE_SERVER="http://127.0.0.1:1")
    assert loaded >= _OF_A_SERVER
    assert not loaded & (_OF_THE_OPERATOR | _OF_VECTORS | _OF_A_DATABASE)


def test_help_and_completion_load_neither() -> None:
    helps = [f"{command.split()[0]} --help" for command in _QUESTIONS]
    loaded = _loaded(*helps, "complete", code=0)
    assert "yaml" not in loaded
    assert not loaded & (_OF_THE_OPERATOR | _OF_VECTORS | _OF_A_DATABASE | _OF_A_SERVER)


def test_the_view_of_the_replicas_loads_nothing_of_databases() -> None:
    loaded = _loaded("top --once --interval 0.5 --metrics-url http://127.0.0.1:1", code=1)
    assert loaded >= _OF_A_SERVER
    assert not loaded & (_OF_THE_OPERATOR | _OF_VECTORS | _OF_A_DATABASE)
