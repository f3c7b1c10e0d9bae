"""Prints the demo for the person at the terminal, or as plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

STILL_INTERVAL = 10.0  # seconds between two lines about a wait, where no spinner can turn
PIPED_WIDTH = 200  # columns
NOTICED = 1.0  # seconds; what is there already takes less


class Narrator:
    """Writes headings, notes, checks and tables to standard output. May be used from several threads."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character must not end the demo.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        width = None if sys.stdout.isatty() else PIPED_WIDTH
        self._console = Console(highlight=False, soft_wrap=True, width=width)

    def heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def say(self, text: str) -> None:
        self._line("  ", text)

    def happened(self, text: str) -> None:
        """Print something that happened by itself."""
        self._line("    · ", text, style="dim")

    def passed(self, name: str, seen: str) -> None:
        self._console.print(
            Text.assemble(("  ✓ ", "bold green"), name, (f": {seen}" if seen else "", "green"))
        )

    def failed(self, name: str, lines: Sequence[str]) -> None:
        self._console.print(Text.assemble(("  ✗ ", "bold red"), (name, "bold red")))
        for line in lines:
            self._line("      ", line)

    def quote(self, text: str) -> None:
        """Show the output of a program, or what can be copied, as it is."""
        for line in text.rstrip().splitlines():
            self._line("    ", line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text("" if value is None else str(value)) for value in row))
        with self._console.capture() as captured:
            self._console.print(table, soft_wrap=False)
        for line in captured.get().splitlines():
            self._console.print(Text.from_ansi(f"    {line.rstrip()}"))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Say how long the block took, if that was long enough to be noticed."""
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        if seconds > NOTICED:
            self.say(f"{what} in {seconds:.0f} s")

    @contextmanager
    def waiting(self, name: str) -> Iterator[Callable[[str], None]]:
        """Show that something is waited for; the function given takes what is seen meanwhile."""
        if self._console.is_terminal:
            with self._console.status(f"  {name}") as status:
                yield lambda seen: status.update(Text(f"{name}: {seen}", overflow="ellipsis", no_wrap=True))
            return
        last = time.monotonic()

        def still(seen: str) -> None:
            nonlocal last
            if time.monotonic() - last >= STILL_INTERVAL:
                last = time.monotonic()
                self.happened(f"waiting: {name}; {seen}")

        yield still

    def _line(self, indent: str, text: str, style: str = "") -> None:
        self._console.print(Text(f"{indent}{text}", style=style))
