"""The commands for the vectors that are still missing: show them, try them again, drop them."""

from functools import partial
from typing import Annotated, Any, Final

import typer

from datastorage.assembly.commands import open_outbox
from datastorage.cli.opened import with_opened
from datastorage.cli.options import Output, parse_uid
from datastorage.cli.output import Format, note, print_document, print_table
from datastorage.cli.times import duration
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import check_limit
from datastorage.records.times import rfc3339
from datastorage.records.vectorwrite import OutboxState
from datastorage.settings import load_settings
from datastorage.storage.outbox import Outbox, OutboxDepth, OutboxRow

# Enough for all vectors of one object.
_MOST_ROWS: Final = 1000
_ERRORS_SHOWN: Final = 5

commands = typer.Typer()
outbox = typer.Typer(
    invoke_without_command=True,
    help="Show the vectors that are still missing, try them again, or drop them.\n\n"
    "A vector is pending until it is made in the background, or while the embedder or the vectors' database "
    "is away. It has failed when the model refuses its text. It is dropped when somebody has given it up. "
    "Without a command: `show`.\n\n"
    "Examples:\n"
    "    datastorage outbox\n\n"
    "    datastorage outbox list --state failed\n\n"
    "    datastorage outbox retry --state failed",
)
commands.add_typer(outbox, name="outbox")

_State = Annotated[OutboxState | None, typer.Option(help="Only vectors in this state.", show_default="all")]
_Uid = Annotated[str | None, typer.Option(help="Only vectors of the object with this UID.")]
# `retry` and `drop` need one of the next four. Both accept every state; the help shows those that make sense.
_ToRetry = Annotated[
    OutboxState | None, typer.Option(metavar="failed|dropped", help="The vectors in this state.")
]
_ToDrop = Annotated[
    OutboxState | None, typer.Option(metavar="pending|failed", help="The vectors in this state.")
]
_OfUid = Annotated[str | None, typer.Option(help="The vectors of the object with this UID.")]
_All = Annotated[bool, typer.Option("--all", help="All vectors.")]


@outbox.callback()
def _outbox(context: typer.Context, output: Output = Format.TABLE) -> None:
    if context.invoked_subcommand is None:
        show(output)


@outbox.command()
def show(output: Output = Format.TABLE) -> None:
    """Show how many vectors are missing, since when the oldest is, and why.

    They are counted by state, and below that by the error of the last try.

    Examples:
        datastorage outbox show

        datastorage outbox show -o json
    """

    async def ask(outbox: Outbox) -> tuple[dict[OutboxState, OutboxDepth], dict[OutboxState, dict[str, int]]]:
        errors = {state: await outbox.errors(state, _ERRORS_SHOWN) for state in OutboxState}
        return await outbox.depths(), errors

    depths, errors = with_opened(open_outbox(load_settings(), writable=False), ask)
    if output is Format.JSON:
        print_document({state.value: _depth(depths[state], errors[state]) for state in OutboxState}, output)
        return
    print_table(
        ("STATE", "VECTORS", "OLDEST"),
        [
            (state.value, f"{depth.depth:,}", duration(depth.oldest_seconds) if depth.depth else "")
            for state, depth in depths.items()
        ],
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
    limit: Annotated[int, typer.Option(help="Number of vectors to show, 1 to 1,000.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List the records without a vector, the longest waiting first.

    TRIES counts those after the first, which is made while the record is stored.

    Examples:
        datastorage outbox list --state pending

        datastorage outbox list --uid 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12 -o json
    """
    check_limit(limit)
    wanted = None if uid is None else parse_uid("--uid", uid)
    rows = with_opened(
        open_outbox(load_settings(), writable=False),
        lambda outbox: outbox.list(state=state, uid=wanted, limit=limit),
    )
    if output is Format.JSON:
        print_document([_row(row) for row in rows], output)
    elif rows:
        print_table(
            ("STATE", "PENDING SINCE", "TRIES", "NAMESPACE", "NAME", "UID", "GENERATION", "LAST ERROR"),
            [
                (
                    row.state.value, rfc3339(row.pending_since, "seconds"), str(row.attempts),
                    row.namespace, row.name, row.uid, str(row.generation), row.last_error or "",
                )
                for row in rows
            ],
        )  # fmt: skip
    else:
        note("no vectors are missing" if state is None and uid is None else "no missing vectors match")


@outbox.command()
def retry(*, state: _ToRetry = None, uid: _OfUid = None, all: _All = False) -> None:  # noqa: A002  # the option's name
    """Try failed or dropped vectors again.

    This command marks them as pending; a running operator then makes them
    within seconds.

    One of --state, --uid and --all is required; --state and --uid go together,
    too.

    Examples:
        datastorage outbox retry --state failed

        datastorage outbox retry --all
    """
    if state is OutboxState.PENDING:
        raise InvalidQueryError("a pending vector is tried again by itself: give --state failed or dropped")
    wanted = _selected(state, uid, everything=all)
    count = with_opened(
        open_outbox(load_settings(), writable=True), lambda outbox: outbox.retry(state=state, uid=wanted)
    )
    typer.echo(f"to be tried again: {count:,}")


@outbox.command()
def drop(
    *,
    reason: Annotated[str, typer.Option(help="Why; the reason is kept with the vectors.")],
    state: _ToDrop = None,
    uid: _OfUid = None,
    all: _All = False,  # noqa: A002  # the option's name
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Give up vectors, so that nothing waits for them.

    The records stay in the archive, but a search by meaning won't find them. An
    object in the cluster that is Degraded becomes Stored, with its vector
    Failed, within a minute. `datastorage outbox retry --state dropped` undoes
    the drop.

    --reason is required, and one of --state, --uid and --all; --state and --uid
    go together, too.

    Examples:
        datastorage outbox drop --state failed --reason "texts too long for the model"

        datastorage outbox drop --state pending --reason "no model any more" --yes
    """
    if not reason.strip():
        raise InvalidQueryError("--reason must say why")
    wanted = _selected(state, uid, everything=all)
    settings = load_settings()
    if not yes:
        count = with_opened(
            open_outbox(settings, writable=False), partial(_droppable, state=state, uid=wanted)
        )
        if not count:
            typer.echo("dropped: 0")
            return
        typer.confirm(
            f"Give up {count:,} vectors? Their records stay, but a search by meaning won't find them",
            abort=True,
        )
    dropped = with_opened(
        open_outbox(settings, writable=True),
        lambda outbox: outbox.drop(state=state, uid=wanted, reason=reason.strip()),
    )
    typer.echo(f"dropped: {dropped:,}")


async def _droppable(outbox: Outbox, *, state: OutboxState | None, uid: str | None) -> int:
    if uid is not None:
        rows = await outbox.list(state=state, uid=uid, limit=_MOST_ROWS)
        return sum(row.state is not OutboxState.DROPPED for row in rows)
    depths = await outbox.depths()
    return sum(
        depth.depth
        for found, depth in depths.items()
        if found is not OutboxState.DROPPED and state in {None, found}
    )


def _selected(state: OutboxState | None, uid: str | None, *, everything: bool) -> str | None:
    """Return the UID. Raises InvalidQueryError unless the options select something."""
    if everything and (state is not None or uid is not None):
        raise InvalidQueryError("--all can't be combined with --state or --uid")
    if not everything and state is None and uid is None:
        raise InvalidQueryError("choose the vectors with --state, --uid or --all")
    return None if uid is None else parse_uid("--uid", uid)


def _depth(depth: OutboxDepth, errors: dict[str, int]) -> dict[str, Any]:
    return {
        "vectors": depth.depth,
        "oldestSeconds": round(depth.oldest_seconds, 1) if depth.depth else None,
        "lastErrors": [{"error": error or None, "vectors": count} for error, count in errors.items()],
    }


def _row(row: OutboxRow) -> dict[str, Any]:
    return {
        "state": row.state.value, "pendingSince": rfc3339(row.pending_since), "attempts": row.attempts,
        "table": row.table, "namespace": row.namespace, "name": row.name, "uid": row.uid,
        "generation": row.generation, "lastError": row.last_error,
    }  # fmt: skip
