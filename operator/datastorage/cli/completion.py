"""Shell completion: the scripts for shells, and the answers to kubectl."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from enum import StrEnum
from io import StringIO
from typing import Annotated, Final

import typer
from typer.completion import (  # type: ignore[attr-defined]  # the module does not list its names
    completion_init,
    get_completion_script,
)

VARIABLE: Final = "_DATASTORAGE_COMPLETE"
# The last line says to kubectl what it offers: these words alone, or the names of files.
_THESE: Final = ":4"
_FILES: Final = ":0"

commands = typer.Typer()


class Shell(StrEnum):
    """The shells for which there is a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@commands.command()
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that you use.")]) -> None:
    """Print the script that lets a shell complete commands, options and kinds.

    As "kubectl datastorage", the program is completed by kubectl's own
    completion, with the program kubectl_complete-datastorage, which is
    installed beside it.

    Examples:
        source <(datastorage completion bash)

        datastorage completion zsh > "${fpath[1]}/_datastorage"

        datastorage completion fish > ~/.config/fish/completions/datastorage.fish
    """
    typer.echo(get_completion_script(prog_name="datastorage", complete_var=VARIABLE, shell=shell))


def words_to_complete() -> list[str] | None:
    """Return the arguments as far as they are typed if a shell asks for completion, otherwise None."""
    if VARIABLE not in os.environ:
        return None
    completion_init()
    typed = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return typed.split()[1:]


def complete_for_kubectl(main: Callable[[], object], arguments: Sequence[str]) -> None:
    """Print the words that may follow, for kubectl: the last argument is the word that was begun."""
    words = ["datastorage", *arguments]
    os.environ.update(
        {VARIABLE: "complete_bash", "COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    )
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            main()
    except SystemExit:
        pass
    found = [word for word in printed.getvalue().splitlines() if word not in {"", words[-1]}]
    sys.stdout.writelines(f"{word}\n" for word in [*found, _THESE if found else _FILES])


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the completion of an option whose value is one of some words."""
    known = list(dict.fromkeys(map(str, words)))
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]
