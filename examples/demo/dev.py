"""`make dev`: the environment of the demo without the story, with the operator's log in the terminal."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from examples.demo.narrator import Narrator
from examples.demo.stage import interruptible, own_directory, show_access, stage, until_interrupted
from harness.controlplane import ControlPlaneError

DESCRIPTION = """\
Runs a control plane, PostgreSQL and the operator from the source tree until
Ctrl-C. DATASTORAGE_ variables of the shell reach the operator; with
DATASTORAGE_DATABASE_URL set it uses that (migrated) database in place of its own."""

# With other settings than the operator's, a search in another terminal would find less. The key is not shown.
_OF_SEARCHES: Final = ("DATASTORAGE_EMBEDDING_", "DATASTORAGE_THESAURUS_")
_KEY: Final = "DATASTORAGE_EMBEDDING_API_KEY"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make dev", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    settings = {name: value for name, value in os.environ.items() if name.startswith("DATASTORAGE_")}
    narrator = Narrator()
    remedy = (
        f"If these variables are those of an earlier run, remove them: unset {' '.join(sorted(settings))}"
    )
    if (socket := _missing_socket(settings)) is not None:
        narrator.failed(
            f"The PostgreSQL of DATASTORAGE_DATABASE_URL is gone: {socket} does not exist",
            [remedy],
        )
        return 1
    if settings:  # a server of an earlier run that can't be told to be gone is waited for
        narrator.say(f"The operator gets these variables of this shell: {', '.join(sorted(settings))}")
    try:
        with (
            interruptible(),
            own_directory() as directory,
            stage(narrator, directory, settings, log_to_terminal=True) as running,
        ):
            narrator.heading("Ready; Ctrl-C stops and removes everything. In another terminal:")
            shown = {
                name: value
                for name, value in settings.items()
                if name.startswith(_OF_SEARCHES) and name != _KEY
            }
            show_access(narrator, running, shown)
            until_interrupted(running.check)
    except ControlPlaneError as error:
        notes: list[str] = getattr(error, "__notes__", [])
        if settings:
            notes = [*notes, remedy]
        narrator.failed(
            "A program does not start, or has ended by itself", [*str(error).splitlines(), *notes]
        )
        return 1
    return 0


def _missing_socket(settings: Mapping[str, str]) -> Path | None:
    """Return the folder of the database's socket, if the URL names one and there is none."""
    url = urlsplit(settings.get("DATASTORAGE_DATABASE_URL", ""))
    folders = [Path(host) for host in parse_qs(url.query).get("host", []) if host.startswith("/")]
    return next((folder for folder in folders if not folder.exists()), None)


if __name__ == "__main__":
    sys.exit(main())
