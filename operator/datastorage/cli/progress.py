"""Shows how far a long piece of work has come: a bar on a terminal, otherwise a line now and then."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from datastorage.cli.output import note, printable

# Between two lines about one stage: often enough to see progress, seldom enough for a log.
_LINE_SECONDS: Final = 10.0
# Between two looks at the progress: short enough for the eye.
_LOOK_SECONDS: Final = 0.2


class Display(Protocol):
    """Shows progress on standard error, so that answers can be piped."""

    def show(self, stage: str, done: int, total: int | None) -> None:
        """Show how far a stage has come, also an earlier stage; a total of None is unknown."""

    def say(self, text: str) -> None:
        """Show a text that stays on the screen."""


@contextmanager
def display(clock: Callable[[], float] = time.monotonic) -> Iterator[Display]:
    """Return bars where standard error is a terminal, otherwise lines; ``clock`` returns seconds."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with _Bars(console) as bars:
            yield bars
    else:
        lines = _Lines(clock)
        yield lines
        lines.finish()


@asynccontextmanager
async def following(look: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``look`` repeatedly while the work in the context runs, and once more when it has succeeded."""
    task = asyncio.create_task(_look_repeatedly(look))
    try:
        yield
        look()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _look_repeatedly(look: Callable[[], None]) -> None:
    while True:
        look()
        await asyncio.sleep(_LOOK_SECONDS)


class Follower:
    """Shows how far work has come that waits for what is away, and says once what it waits for."""

    def __init__(
        self,
        view: Display,
        stages: Callable[[], Iterable[tuple[str, int, int | None]]],
        away: Callable[[], Mapping[str, str]],
    ) -> None:
        """``stages`` returns those that have begun, each with its ``done`` and ``total``.

        ``away`` returns the dependencies that the work waits for, each with the reason.
        """
        self._view = view
        self._stages = stages
        self._away = away
        self._reported: set[str] = set()

    def look(self) -> None:
        """Show what there is now."""
        for stage, done, total in self._stages():
            self._view.show(stage, done, total)
        away = self._away()
        for name in away.keys() - self._reported:
            self._view.say(f"waiting for {name}: {away[name]}")
        for name in self._reported - away.keys():
            self._view.say(f"{name} serves again")
        self._reported = set(away)


@asynccontextmanager
async def followed(
    stages: Callable[[], Iterable[tuple[str, int, int | None]]], away: Callable[[], Mapping[str, str]]
) -> AsyncIterator[None]:
    """Show on standard error how far the work in the context has come, with the arguments of Follower."""
    with display() as view:
        async with following(Follower(view, stages, away).look):
            yield


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


class _Bars:
    """One bar for each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
        )
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=None, count="")
        self._progress.update(self._stages[stage], completed=done, total=total, count=_count(done, total))

    def say(self, text: str) -> None:
        self._console.print(printable(text), markup=False)


class _Lines:
    """A line every ten seconds, and one at the end of a stage."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._began = self._printed = 0.0
        self._done = 0
        self._total: int | None = None
        self._ended: set[str] = set()

    def show(self, stage: str, done: int, total: int | None) -> None:
        if stage in self._ended:
            return
        now = self._clock()
        if stage != self._stage:
            self.finish()
            self._stage, self._began, self._printed = stage, now, now
        self._done, self._total = done, total
        if now - self._printed >= _LINE_SECONDS:
            self._printed = now
            note(self._line(now - self._began))

    def say(self, text: str) -> None:
        note(text)

    def finish(self) -> None:
        """Print how far the stage came."""
        if self._stage is None:
            return
        self._ended.add(self._stage)
        if self._done:
            note(f"{self._stage}: {_count(self._done, self._total)}")

    def _line(self, seconds: float) -> str:
        line = f"{self._stage}: {_count(self._done, self._total)}"
        if self._done and self._total:
            rate = self._done / seconds
            line += f", {rate:,.0f}/s, {(self._total - self._done) / rate:,.0f} s left"
        return line


def _count(done: int, total: int | None) -> str:
    return f"{done:,} of {total:,}" if total is not None else f"{done:,}"
