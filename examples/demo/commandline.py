"""The command line `datastorage`, run and shown as a person would run it."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess
from typing import Any

from examples.demo.story import Demo


def run_all(demo: Demo, commands: Sequence[Sequence[str]]) -> list[CompletedProcess[str]]:
    """Run commands, all at once: most of their time is that of their start."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda command: demo.stage.operator.datastorage(*command), commands))


def quote(demo: Demo, command: Sequence[str], done: CompletedProcess[str]) -> None:
    """Show a command and what it has printed."""
    demo.narrator.say(f"$ datastorage {' '.join(_quoted(word) for word in command)}")
    demo.narrator.quote(done.stderr + done.stdout)


def show_all(demo: Demo, commands: Sequence[Sequence[str]]) -> Iterator[Any]:
    """Show each command with its table, and give what it says in JSON."""
    forms = [(*command, "-o", form) for form in ("table", "json") for command in commands]
    done = run_all(demo, forms)
    for command, table, document in zip(commands, done, done[len(commands) :], strict=False):
        quote(demo, command, table)
        yield json.loads(document.stdout)


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word
