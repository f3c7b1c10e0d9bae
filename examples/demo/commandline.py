"""Runs the command line `datastorage` as a person would; its output is shown and checked."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

from examples.demo.checks import Seen
from examples.demo.scene import Demo


def check_output(
    demo: Demo,
    command: tuple[str, ...],
    name: str,
    expected: str,
    judge: Callable[[CompletedProcess[str]], Seen],
) -> None:
    """Run a command until what it prints is right; print that, and the claim.

    Raises:
        CheckFailedError: it was not right in time.
    """
    done: list[CompletedProcess[str]] = []

    def look() -> Seen:
        done.append(demo.stage.operator.datastorage(*command))
        return judge(done[-1])

    seen = demo.checks.wait(name, expected, look)
    _quote(demo, command, done[-1])
    demo.checks.claim(name, expected, seen)


def look_for(answers: tuple[str, ...], found: CompletedProcess[str]) -> Seen:
    """Look for one of these words in the first row of a table."""
    row = "".join(found.stdout.splitlines()[1:2])
    answer = next((each for each in answers if each in row), None)
    return Seen(answer is not None, answer or found.stderr + row)


def show(demo: Demo, *command: str) -> None:
    """Run a command and show what it prints."""
    _quote(demo, command, demo.stage.operator.datastorage(*command))


def read(demo: Demo, *command: str) -> Any:
    """Return what a command says in JSON."""
    return json.loads(demo.stage.operator.datastorage(*command, "-o", "json").stdout)


def _quote(demo: Demo, command: tuple[str, ...], done: CompletedProcess[str]) -> None:
    words = (f'"{word}"' if " " in word else word for word in command)
    demo.narrator.say(f"$ datastorage {' '.join(words)}")
    demo.narrator.quote(done.stderr + done.stdout)
