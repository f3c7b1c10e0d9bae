"""A terminal for a program under test, as a person would have it."""

import asyncio
import os
import pty
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

ALTERNATE_SCREEN: Final = "\x1b[?1049h"
"""What a program writes that takes the whole screen,"""
OWN_SCREEN: Final = "\x1b[?1049l"
"""and that gives back what was there before."""

_CHUNK: Final = 65_536


class Terminal:
    """What a program writes to it is read from it."""

    def __init__(self, reading: int, end: int) -> None:
        """Both are descriptors: ``end`` is that of the program."""
        self._reading = reading
        self._end: int | None = end

    @property
    def end(self) -> int:
        """The descriptor for the program's input and output."""
        assert self._end is not None, "the program has it"
        return self._end

    def close_end(self) -> None:
        """Leave the end to the program that has been started, so that the output ends with it."""
        if self._end is not None:
            os.close(self._end)
            self._end = None

    async def shown_until(self, *words: str) -> str:
        """Return what is written until all of the words are there."""
        text = b""
        while not all(word.encode() in text for word in words):
            text += await asyncio.to_thread(os.read, self._reading, _CHUNK)
        return text.decode()

    async def rest(self) -> str:
        """Return what else is written before the program ends."""
        return (await asyncio.to_thread(self._read_rest)).decode()

    def _read_rest(self) -> bytes:
        text = b""
        with suppress(OSError):  # Linux reports the end as an error
            while data := os.read(self._reading, _CHUNK):
                text += data
        return text


@contextmanager
def opened_terminal(*, lines: int, columns: int) -> Iterator[Terminal]:
    """Open a terminal of a size."""
    reading, end = pty.openpty()
    termios.tcsetwinsize(end, (lines, columns))
    terminal = Terminal(reading, end)
    try:
        yield terminal
    finally:
        terminal.close_end()
        os.close(reading)
