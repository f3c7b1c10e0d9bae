"""The commands that care for the vectors: making them for another model, and what is owed."""

import asyncio
import logging
import signal
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from datastorage.cli.output import Format, note, print_document, print_table
from datastorage.cli.progress import Display, display
from datastorage.errors import (
    ConfigurationError,
    EmbedderMisconfiguredError,
    InvalidQueryError,
    MissingRightsError,
    TransientError,
)
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.settings import Settings, load_settings
from datastorage.storage.outbox import Outbox, OutboxDepth, OutboxRow, OutboxState
from datastorage.storage.schema import VECTORS
from datastorage.storage.texts import Texts
from datastorage.vectors.progress import Missing, Progress
from datastorage.vectors.reembed import Reembed

if TYPE_CHECKING:
    from datastorage.assembly.store import VectorStore  # loads much

T = TypeVar("T")

_PANEL: Final = "The vectors"
_LOOK_SECONDS: Final = 0.2
_MOST_ROWS: Final = 1000
_ERRORS_SHOWN: Final = 5
# As a shell names the end by these signals.
_EXIT_INTERRUPTED: Final = 130
_EXIT_TERMINATED: Final = 143

commands = typer.Typer()


@commands.command(rich_help_panel=_PANEL)
def reembed(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what is missing; change nothing.")
    ] = False,
) -> None:
    """Give every stored record a vector of the model that the settings name, while everything runs.

    First, records that were stored while no vectors were kept get their texts;
    then every text without a vector of this model gets one. What is there
    already stays. It may be stopped at any point and started again, and it waits
    for what is away. The vectors are indexed on the way.

    To change the model without a gap in the search: run this with the new
    settings while the operator still has the old ones; roll the operator over;
    run this again for what was stored meanwhile. Vectors of different models are
    kept apart, so that the old ones serve until then.

    Texts that the model refuses are named in the end, and the exit code is 1.
    What an earlier model had refused is tried with this one by
    `datastorage outbox retry --state failed`, once the operator has it.

    The totals are counted where a stage begins: a second or so for a million
    records. --dry-run compares all texts with all vectors: some seconds for a
    million.
    """
    settings = load_settings()
    # What a breaker has to say is said by the display.
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    make_room_for_deep_json()
    try:
        refused = asyncio.run(_reembed(settings, dry_run=dry_run))
    except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
        note("stopped; what is done stays done: run the same command again to go on")
        interrupted = isinstance(stopped, KeyboardInterrupt)
        raise typer.Exit(_EXIT_INTERRUPTED if interrupted else _EXIT_TERMINATED) from None
    if refused:
        raise typer.Exit(1)


async def _reembed(settings: Settings, *, dry_run: bool) -> int:
    """Run it; return how many texts were refused."""
    work = asyncio.current_task()
    assert work is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    from datastorage.assembly.commands import open_reembed  # noqa: PLC0415  # loads much

    async with open_reembed(settings, writable=not dry_run) as opened:
        reembed, texts, vectors = opened.work, opened.texts, opened.vectors
        model = str(vectors.embedder.model)
        check = partial(vectors.database.check_schema_version, VECTORS)
        with display() as shown:
            follower = _Follower(reembed, shown)
            following = asyncio.create_task(follower.run())
            try:
                if dry_run:
                    await check()
                    missing = await reembed.missing()
                else:
                    await vectors.breaker.run(check)
                    await _refuse_wrong_settings(texts, vectors)
                    await reembed.run()
                follower.look()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    if dry_run:
        _print_missing(missing, model)
        return 0
    return _print_done(reembed.progress, model)


async def _refuse_wrong_settings(texts: Texts, vectors: "VectorStore") -> None:
    """Raise ConfigurationError for what waiting would not cure. What is merely away is waited for later."""
    # The last makes the model's tables, which a model that is no such one must not leave behind.
    for works in (texts.probe, vectors.embedder.probe, vectors.tables.probe):
        try:
            await works()
        except MissingRightsError as error:
            raise ConfigurationError(f"{error}: run this as the service role") from error
        except EmbedderMisconfiguredError as error:
            raise ConfigurationError(str(error)) from error
        except TransientError:
            if works == vectors.embedder.probe:
                return


class _Follower:
    """Shows how far it has come, and says once what it waits for."""

    def __init__(self, reembed: Reembed, shown: Display) -> None:
        self._reembed = reembed
        self._shown = shown
        self._told: set[str] = set()

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        progress = self._reembed.progress
        for stage, done, total in (*progress.ended, (progress.stage, progress.done, progress.total)):
            self._shown.show(stage, done, total)
        away = self._reembed.away()
        for name in away.keys() - self._told:
            self._shown.say(f"waiting for {name}: {away[name]}")
        for name in self._told - away.keys():
            self._shown.say(f"{name} serves again")
        self._told = set(away)


def _print_missing(missing: Missing, model: str) -> None:
    typer.echo(f"records without a text: {missing.records_without_text:,}")
    typer.echo(f"texts without a vector of {model}: {missing.texts_without_vector:,} of {missing.texts:,}")


def _print_done(progress: Progress, model: str) -> int:
    typer.echo(f"records given a text: {progress.linked:,}")
    typer.echo(f"vectors of {model} made: {progress.embedded:,}")
    _name("records left as they are", progress.skipped, progress.skipped_named)
    _name("texts refused", progress.refused, progress.refused_named)
    if progress.index_error is not None:
        note(f"the index is not complete; the operator goes on with it: {progress.index_error}")
    return progress.refused


def _name(what: str, count: int, named: Sequence[str]) -> None:
    if not count:
        return
    note(f"{what}: {count:,}" + (f", of which the first {len(named)}:" if count > len(named) else ":"))
    for name in named:
        note(f"  {name}")


outbox = typer.Typer(
    invoke_without_command=True,
    help="Show the vectors that are owed, try them again, or give them up.\n\n"
    "A vector is owed (pending) while the embedder or the vectors' database is away, failed when the model "
    "refuses its text, dropped when somebody has given it up. Without a command: `show`.",
)
commands.add_typer(outbox, name="outbox", rich_help_panel=_PANEL)

_Output = Annotated[Format, typer.Option("--output", "-o", help="What to print.")]
_State = Annotated[OutboxState | None, typer.Option(help="Only those in this state.", show_default="all")]
_Uid = Annotated[str | None, typer.Option(help="Only those of the object of this UID.")]
_All = Annotated[bool, typer.Option("--all", help="All of them.")]


@outbox.callback()
def _outbox(context: typer.Context, output: _Output = Format.TABLE) -> None:
    if context.invoked_subcommand is None:
        show(output)


@outbox.command()
def show(output: _Output = Format.TABLE) -> None:
    """Show how many vectors are owed, for how long the oldest has been, and why."""

    async def ask(owed: Outbox) -> tuple[dict[OutboxState, OutboxDepth], dict[OutboxState, dict[str, int]]]:
        return await owed.depths(), {state: await owed.errors(state, _ERRORS_SHOWN) for state in OutboxState}

    depths, errors = _with_outbox(ask)
    if output is Format.JSON:
        print_document({state.value: _depth(depths[state], errors[state]) for state in OutboxState}, output)
        return
    print_table(
        ("STATE", "VECTORS", "OLDEST"),
        [(state.value, f"{depth.depth:,}", _age(depth)) for state, depth in depths.items()],
    )
    reasons = [
        (state.value, f"{count:,}", error or "not tried yet")
        for state in OutboxState
        for error, count in errors[state].items()
    ]
    if reasons:
        typer.echo()
        print_table(("STATE", "VECTORS", "LAST ERROR"), reasons)


@outbox.command("list")
def list_(
    *,
    state: _State = None,
    uid: _Uid = None,
    limit: Annotated[int, typer.Option(help="Vectors to show, 1 to 1,000.")] = 50,
    output: _Output = Format.TABLE,
) -> None:
    """List the records whose vectors are owed, those for longest first."""
    if not 1 <= limit <= _MOST_ROWS:
        raise InvalidQueryError(f"--limit must be 1 to {_MOST_ROWS:,}")
    wanted = _valid(uid)
    rows = _with_outbox(lambda owed: owed.list(state=state, uid=wanted, limit=limit))
    if output is Format.JSON:
        print_document([_row(row) for row in rows], output)
    elif rows:
        print_table(
            ("STATE", "OWED SINCE", "TRIES", "NAMESPACE", "NAME", "UID", "GENERATION", "LAST ERROR"),
            [
                (
                    row.state.value, row.owed_since.isoformat(timespec="seconds"), str(row.attempts),
                    row.namespace, row.name, row.uid, str(row.generation), row.last_error or "",
                )
                for row in rows
            ],
        )  # fmt: skip
    else:
        note("no vectors are owed" if state is None and uid is None else "none of these")


@outbox.command()
def retry(*, state: _State = None, uid: _Uid = None, all: _All = False) -> None:  # noqa: A002  # the option's name
    """Try vectors again that failed or were dropped. The operator does so within seconds."""
    if state is OutboxState.PENDING:
        raise InvalidQueryError("what is pending is tried again by itself: --state failed or dropped")
    wanted = _selected(state, uid, everything=all)
    count = _with_outbox(lambda owed: owed.retry(state=state, uid=wanted), writable=True)
    typer.echo(f"to be tried again: {count:,}")


@outbox.command()
def drop(
    *,
    reason: Annotated[str, typer.Option(help="Why; it stays with the vectors.")],
    state: _State = None,
    uid: _Uid = None,
    all: _All = False,  # noqa: A002  # the option's name
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give vectors up, so that nothing waits for them any more.

    The record stays, but it has no vector, and a search by meaning won't find
    it. Its object in the cluster, where it is Degraded, becomes Stored with the
    vector Failed within a minute. `datastorage outbox retry --state dropped`
    takes it back.
    """
    if not reason.strip():
        raise InvalidQueryError("--reason must say why")
    wanted = _selected(state, uid, everything=all)
    if not yes:
        count = _with_outbox(partial(_droppable, state=state, uid=wanted))
        if not count:
            typer.echo("dropped: 0")
            return
        typer.confirm(
            f"Give up {count:,} vectors? Their records stay, but a search by meaning won't find them",
            abort=True,
        )
    dropped = _with_outbox(
        lambda owed: owed.drop(state=state, uid=wanted, reason=reason.strip()), writable=True
    )
    typer.echo(f"dropped: {dropped:,}")


async def _droppable(owed: Outbox, *, state: OutboxState | None, uid: str | None) -> int:
    if uid is not None:
        rows = await owed.list(state=state, uid=uid, limit=_MOST_ROWS)
        return sum(row.state is not OutboxState.DROPPED for row in rows)
    depths = await owed.depths()
    return sum(
        depth.depth
        for found, depth in depths.items()
        if found is not OutboxState.DROPPED and state in {None, found}
    )


def _selected(state: OutboxState | None, uid: str | None, *, everything: bool) -> str | None:
    """Refuse a selection that is none; return the UID."""
    if everything and (state is not None or uid is not None):
        raise InvalidQueryError("--all excludes --state and --uid")
    if not everything and state is None and uid is None:
        raise InvalidQueryError("say which: --state, --uid or --all")
    return _valid(uid)


def _valid(uid: str | None) -> str | None:
    if uid is None:
        return None
    try:
        return str(uuid.UUID(uid))
    except ValueError:
        raise InvalidQueryError(
            f"--uid must be the UID of an object, such as {uuid.UUID(int=0)}, not {uid[:50]!r}"
        ) from None


def _with_outbox(work: Callable[[Outbox], Awaitable[T]], *, writable: bool = False) -> T:
    return asyncio.run(_on_outbox(work, writable=writable))


async def _on_outbox(work: Callable[[Outbox], Awaitable[T]], *, writable: bool) -> T:
    from datastorage.assembly.commands import open_outbox  # noqa: PLC0415  # loads much

    async with open_outbox(load_settings(), writable=writable) as outbox:
        return await work(outbox)


def _age(depth: OutboxDepth) -> str:
    if not depth.depth:
        return ""
    minutes, seconds = divmod(round(depth.oldest_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")]
    return " ".join([f"{value}{unit}" for value, unit in parts if value][:2]) or "0s"


def _depth(depth: OutboxDepth, errors: dict[str, int]) -> dict[str, Any]:
    return {
        "vectors": depth.depth,
        "oldestSeconds": round(depth.oldest_seconds, 1) if depth.depth else None,
        "lastErrors": [{"error": error or None, "vectors": count} for error, count in errors.items()],
    }


def _row(row: OutboxRow) -> dict[str, Any]:
    return {
        "state": row.state.value, "owedSince": row.owed_since.isoformat(), "attempts": row.attempts,
        "table": row.table, "namespace": row.namespace, "name": row.name, "uid": row.uid,
        "generation": row.generation, "lastError": row.last_error,
    }  # fmt: skip
