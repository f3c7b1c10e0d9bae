"""The command line `datastorage`, run and shown as a person would run it."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess
from typing import Any

from examples.demo.story import Demo


def show(demo: Demo, *arguments: str) -> Any:
    """Show a command and its table, and return what it says in JSON."""
    return show_all(demo, [arguments])[0]


def show_all(demo: Demo, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Do so with several. All run at once: what takes its time is their start."""

    def run(command: Sequence[str], form: str) -> CompletedProcess[str]:
        return demo.stage.operator.datastorage(*command, "-o", form)

    with ThreadPoolExecutor() as pool:
        tables = [pool.submit(run, command, "table") for command in commands]
        documents = [pool.submit(run, command, "json") for command in commands]
    for command, table in zip(commands, tables, strict=True):
        demo.narrator.say(f"$ datastorage {' '.join(_quoted(word) for word in command)}")
        demo.narrator.quote(table.result().stderr + table.result().stdout)
    return [json.loads(document.result().stdout) for document in documents]


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word
