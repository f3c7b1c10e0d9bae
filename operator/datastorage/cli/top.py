"""The command that watches the running replicas."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from datastorage.cli.optiongroups import with_option_groups
from datastorage.cli.output import LookFormat, print_document
from datastorage.cli.toprejected import LatestRejected, RejectedLook, following_rejected
from datastorage.cli.topview import drawn
from datastorage.errors import ConfigurationError
from datastorage.replicas.look import Look
from datastorage.replicas.places import NamedPlaces, Places
from datastorage.replicas.pods import SELECTOR, Installation, Pods
from datastorage.replicas.reading import PageReader, metrics_url
from datastorage.replicas.watching import Watching

_LOCAL: Final = "http://127.0.0.1:9090"
_ARCHIVE: Final = "DATASTORAGE_DATABASE_URL"
_MOST_URLS: Final = 32
# A pipe has no width. Wider than a page of a ticket would be hard to read there.
_WIDTH_OF_A_PIPE: Final = 100

_HINT: Final = "Name the replicas with -n NAMESPACE or --metrics-url URL (see --help)."

T = TypeVar("T")

commands = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """Where the replicas are. Each field is one option."""

    metrics_url: Annotated[
        list[str] | None,
        typer.Option(
            help=f"URL of a replica's metrics; may be repeated. By default {_LOCAL}.", show_default=False
        ),
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Namespace of an installation: kubectl forwards a port to each of its pods.",
        ),
    ] = None
    selector: Annotated[
        str | None,
        typer.Option(
            "--selector",
            "-l",
            help=f"Labels of the pods; by default, {SELECTOR.replace('=', ' is ')}.",
            show_default=False,
        ),
    ] = None
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig in place of KUBECONFIG.", show_default=False)
    ] = None
    context: Annotated[
        str | None,
        typer.Option(help="Context of the kubeconfig, in place of the current one.", show_default=False),
    ] = None

    @property
    def names_replicas(self) -> bool:
        """Whether a person has said where the replicas are."""
        return bool(self.metrics_url) or self.namespace is not None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Places]:
        """Open the way to the replicas. Raises ConfigurationError."""
        if self.namespace is None:
            self._refuse_without_namespace()
            yield NamedPlaces([metrics_url(text) for text in self.metrics_url or [_LOCAL]])
            return
        if self.metrics_url:
            raise ConfigurationError("--metrics-url can't be combined with -n: kubectl finds the pods")
        installation = Installation(
            namespace=self.namespace,
            selector=self.selector or SELECTOR,
            kubeconfig=None if self.kubeconfig is None else str(self.kubeconfig),
            context=self.context,
        )
        async with Pods(installation) as pods:
            yield pods

    def _refuse_without_namespace(self) -> None:
        given = {"--selector": self.selector, "--kubeconfig": self.kubeconfig, "--context": self.context}
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise ConfigurationError(f"{useless[0]} needs -n, the namespace of the installation")
        if len(self.metrics_url or ()) > _MOST_URLS:
            raise ConfigurationError(f"--metrics-url can be given {_MOST_URLS} times at most")


@commands.command()
@with_option_groups
def top(
    *,
    places: PlaceOptions,
    once: Annotated[bool, typer.Option("--once", help="Print the view once, and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds between two readings; rates are between them.")
    ] = 2.0,
    output: Annotated[
        LookFormat, typer.Option("--output", "-o", help="Output format of --once.")
    ] = LookFormat.TABLE,
) -> None:
    """Watch the running replicas: rates, depths, lag, and what is away.

    It reads the metrics of each replica every two seconds, for which it needs
    no token. Ctrl-C ends it and leaves the last view on the screen.

    With -n, kubectl lists the pods and forwards a local port to each of them,
    which works where NetworkPolicies are in force. You need the rights to get
    and list pods and to create pods/portforward there. Without -n and
    --metrics-url, it reads the replica on this machine.

    Numbers are sums over the replicas that answer; a replica that does not
    answer is named with the reason. Rates are counted between the last two
    readings. "stored, p95" is the time from a record's creation to its row, and
    "loop held, p99" the delay of the event loop; both are estimated from the
    buckets of the last minute. Where DATASTORAGE_DATABASE_URL is set, the
    latest rejected records of that archive are shown.

    With --once, the view comes after one interval, and the two times are
    estimated from that interval alone. The exit code is then 1 if no replica
    answers.

    Examples:
        datastorage top -n datastorage-system

        datastorage top --metrics-url http://10.0.0.5:9090 --metrics-url http://10.0.0.6:9090

        datastorage top -n datastorage-system --once -o json
    """
    if output is LookFormat.JSON and not once:
        raise ConfigurationError("-o json needs --once, which prints the view once and ends")
    console = Console(highlight=False)
    if not once and (not console.is_terminal or console.is_dumb_terminal):
        raise ConfigurationError("the output is no terminal: use --once, which prints the view once and ends")
    shown = asyncio.run(_watch(places, interval, None if once else console))
    if shown is None:
        raise typer.Abort
    if output is LookFormat.JSON:
        print_document(shown.as_json(), output)
    else:
        _print(console, shown)
    if once and not shown.replicas.answering:
        raise typer.Exit(1)


def _print(console: Console, shown: "_Shown") -> None:
    if console.is_terminal:
        console.print(shown.drawn)
        return
    printed = Console(file=io.StringIO(), highlight=False, width=_WIDTH_OF_A_PIPE)
    with printed.capture() as captured:
        printed.print(shown.drawn)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


@dataclass(frozen=True, slots=True)
class _Shown:
    """One look at all that is shown."""

    replicas: Look
    rejected: RejectedLook | None
    hint: str

    @property
    def drawn(self) -> RenderableType:
        view = drawn(self.replicas, self.rejected)
        return Group(view, "", self.hint) if self.hint and not self.replicas.answering else view

    def as_json(self) -> dict[str, Any]:
        return {
            **self.replicas.as_json(),
            "rejected": None if self.rejected is None else self.rejected.as_json(),
        }


class _Looker:
    """Looks at the replicas and at what is known of the archive."""

    def __init__(self, watching: Watching, rejected: LatestRejected | None, hint: str) -> None:
        self._watching = watching
        self._rejected = rejected
        self._hint = hint

    async def once(self, interval: float) -> _Shown:
        """Return the second of two looks, which has rates."""
        await self._watching.look()
        await asyncio.sleep(interval)
        replicas = await self._watching.look()
        rejected = None if self._rejected is None else await self._rejected.first()
        return _Shown(replicas, rejected, self._hint)

    async def again(self) -> _Shown:
        """Return a look that waits for the replicas alone."""
        replicas = await self._watching.look()
        return _Shown(replicas, None if self._rejected is None else self._rejected.now, self._hint)


async def _watch(places: PlaceOptions, interval: float, console: Console | None) -> _Shown | None:
    """Return the last look, or None if a person ended it before.

    With a console, that is the look at which a person ends it; otherwise the first that has rates.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # An end without the exits of the contexts would leave kubectl behind.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        watching = Watching(
            await stack.enter_async_context(places.opened()), await stack.enter_async_context(PageReader())
        )
        archive = await stack.enter_async_context(following_rejected()) if os.environ.get(_ARCHIVE) else None
        looker = _Looker(watching, archive, "" if places.names_replicas else _HINT)
        if console is None:
            return await _unless(stop, looker.once(interval))
        return await _live(looker, interval, console, stop)


async def _live(looker: _Looker, interval: float, console: Console, stop: asyncio.Event) -> _Shown | None:
    shown = None
    with Live("Looking at the replicas …", console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while not stop.is_set():
            found = await _unless(stop, looker.again())
            if found is None:
                break
            shown = found
            live.update(shown.drawn, refresh=True)
            await _unless(stop, asyncio.sleep(interval))
    return shown


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of the work, or None if it is told to stop before."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopped.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
