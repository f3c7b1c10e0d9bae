"""The commands that show the rejected records, and try them again."""

import base64
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from datastorage.assembly.commands import OpenedRetry, open_rejected, open_retry
from datastorage.cli.opened import with_opened
from datastorage.cli.options import Cursor, DocumentOutput, Output, parse_uid
from datastorage.cli.output import DocumentFormat, Format, note, print_document, print_table
from datastorage.cli.progress import display, following
from datastorage.errors import (
    ConfigurationError,
    InvalidQueryError,
    MissingRightsError,
    RecordNotFoundError,
)
from datastorage.pipeline.rejectedretry import MAX_NAMED, RetryProgress
from datastorage.query.cursor import rejected_cursor, rejected_position
from datastorage.query.filters import check_limit
from datastorage.records.hashes import sha256
from datastorage.records.times import rfc3339
from datastorage.resources.reading.registry import kind_of
from datastorage.settings import load_settings
from datastorage.storage.rejected import Content, Letter, RejectedRecords, Wanted

# Enough for all generations of one object.
_MOST_GENERATIONS: Final = 1000
_NOTHING: Final = (
    "no such records are rejected now: `datastorage rejected list --resolved` shows those stored since"
)

commands = typer.Typer()
rejected = typer.Typer(
    no_args_is_help=True,
    help="Show the records that PostgreSQL could not hold, and try them again.\n\n"
    "The object of such a record has the phase Rejected, and its status.message says why. The archive keeps "
    "the bytes of the record, even after the object was deleted. Remove the cause, then run "
    "`datastorage rejected retry`.",
)
commands.add_typer(rejected, name="rejected")

_Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only records of this namespace.")]
_Reason = Annotated[
    str | None,
    typer.Option(help="Only records whose reason contains this text; capital letters make no difference."),
]
_Uid = Annotated[str, typer.Argument(metavar="UID", help="UID of the object.")]


@rejected.command("list")
def list_(
    *,
    namespace: _Namespace = None,
    reason: _Reason = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Include records that were stored since.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Number of records to show, 1 to 1,000.")] = 50,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
) -> None:
    """List rejected records, the latest first.

    Examples:
        datastorage rejected list

        datastorage rejected list --reason "text search" --namespace payments -o json
    """
    check_limit(limit)
    wanted = Wanted(resolved=resolved, namespace=namespace, reason=reason)
    after = None if cursor is None else rejected_position(cursor)
    found = with_opened(
        open_rejected(load_settings()),
        lambda records: records.list(wanted, after=after, limit=limit + 1),  # one more: is there a next page?
    )
    letters, more = found[:limit], len(found) > limit
    next_cursor = rejected_cursor(letters[-1].position) if more else None
    if output is Format.JSON:
        print_document({"records": [_as_json(letter) for letter in letters], "cursor": next_cursor}, output)
    elif letters:
        _print_letters(letters, output)
        if next_cursor is not None:
            note(f"there are more: --cursor {next_cursor}")
    else:
        note("no records are rejected" if wanted == Wanted() else "no rejected records match")


@rejected.command()
def show(
    uid: _Uid,
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write only the kept bytes, exactly as they are.")
    ] = False,
    generation: Annotated[
        int | None, typer.Option(help="This generation instead of the one rejected last.")
    ] = None,
    output: DocumentOutput = DocumentFormat.YAML,
) -> None:
    """Print a rejected record, with the reason.

    Examples:
        datastorage rejected show 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12

        datastorage rejected show 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12 --raw > record.json
    """
    wanted = Wanted(resolved=True, uid=parse_uid("UID", uid))

    async def ask(records: RejectedRecords) -> tuple[Letter, Content]:
        letters = await records.list(wanted, after=None, limit=_MOST_GENERATIONS)
        for letter in letters:
            if generation in {None, letter.key.generation}:
                return letter, (await records.contents([letter.key]))[letter.key]
        raise RecordNotFoundError(f"no record of {uid} was rejected: `datastorage rejected list` shows all")

    letter, kept = with_opened(open_rejected(load_settings()), ask)
    if raw:
        sys.stdout.buffer.write(kept.content)
        return
    intact = sha256(kept.content) == kept.content_hash
    print_document({**_as_json(letter), "intact": intact, **_record(kept.content)}, output)


@rejected.command()
def retry(
    uid: Annotated[str | None, typer.Argument(metavar="[UID]", help="Only records of this object.")] = None,
    *,
    reason: _Reason = None,
    namespace: _Namespace = None,
    all: Annotated[bool, typer.Option("--all", help="All of them.")] = False,  # noqa: A002  # the option's name
) -> None:
    """Store rejected records from their kept bytes, whether or not their objects
    still exist.

    Remove the cause first. A record gets the row that it would have had: the
    same key, the same bytes, the same hash. A record that PostgreSQL still
    refuses stays rejected and is listed with the reason; the exit code is then
    1. The kept bytes stay in the archive in any case.

    If the object is still in the cluster, a running operator finds the row
    within its sweep interval (DATASTORAGE_SWEEP_INTERVAL_SECONDS), and the
    object becomes Stored.

    Run this command as the service role. It may run beside the operator, and
    may be stopped at any point and started again. The operator makes the
    vectors afterwards. So this command needs the same embedding settings as the
    operator, above all DATASTORAGE_EMBEDDING_PROVIDER, which decides whether
    there are to be vectors.

    Examples:
        datastorage rejected retry 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12

        datastorage rejected retry --reason "outside 2014 to 2099"

        datastorage rejected retry --all
    """
    selection = (uid, reason, namespace)
    if all and selection != (None, None, None):
        raise InvalidQueryError("--all can't be combined with UID, --reason or --namespace")
    if not all and selection == (None, None, None):
        raise InvalidQueryError("choose the records with UID, --reason, --namespace or --all")
    wanted_uid = None if uid is None else parse_uid("UID", uid)
    wanted = Wanted(uid=wanted_uid, namespace=namespace, reason=reason)
    retried = with_opened(open_retry(load_settings()), lambda opened: _retry(opened, wanted))
    if not retried.done:
        if not all:
            raise RecordNotFoundError(_NOTHING)
        note(_NOTHING)
    typer.echo(f"stored: {retried.stored:,}")
    _name_refused(retried)


async def _retry(opened: OpenedRetry, wanted: Wanted) -> RetryProgress:
    total = await opened.rejected.count(wanted)
    if not total:
        return RetryProgress()
    try:
        # If PostgreSQL refuses every record, the rejected ones are not the cause.
        await opened.trial.write()
    except MissingRightsError as error:
        raise ConfigurationError(f"{error}: run this as the service role") from error
    with display() as view:

        def look() -> None:
            done = opened.work.progress.done
            view.show("records", done, max(total, done))

        async with following(look):
            return await opened.work.run(wanted)


def _name_refused(retried: RetryProgress) -> None:
    if not retried.refused:
        return
    named = f", of which {MAX_NAMED}:" if retried.refused > MAX_NAMED else ":"
    note(f"still rejected: {retried.refused:,}{named}")
    for letter, why in retried.refused_named:
        note(f"  {kind_of(letter.table).kind} {letter.namespace}/{letter.name} ({letter.key.uid}): {why}")
    raise typer.Exit(1)


def _print_letters(letters: Sequence[Letter], output: Format) -> None:
    wide = output is Format.WIDE
    stored = ("STORED",) if any(letter.resolved_at for letter in letters) else ()
    rows = [
        (
            rfc3339(letter.rejected_at, "seconds"),
            *((_resolved(letter),) if stored else ()),
            kind_of(letter.table).kind, f"{letter.namespace}/{letter.name}", letter.key.uid,
            *((str(letter.key.generation), f"{letter.size:,}") if wide else ()), letter.reason,
        )
        for letter in letters
    ]  # fmt: skip
    more = ("GENERATION", "BYTES") if wide else ()
    print_table(("REJECTED", *stored, "KIND", "RECORD", "UID", *more, "REASON"), rows)


def _resolved(letter: Letter) -> str:
    return rfc3339(letter.resolved_at, "seconds") if letter.resolved_at is not None else ""


def _as_json(letter: Letter) -> dict[str, Any]:
    return {
        "kind": kind_of(letter.table).kind, "namespace": letter.namespace, "name": letter.name,
        "uid": letter.key.uid, "generation": letter.key.generation,
        "createdAt": rfc3339(letter.key.created_at), "rejectedAt": rfc3339(letter.rejected_at),
        "storedAt": rfc3339(letter.resolved_at) if letter.resolved_at is not None else None,
        "bytes": letter.size, "reason": letter.reason,
    }  # fmt: skip


def _record(content: bytes) -> dict[str, Any]:
    try:
        return {"record": json.loads(content)}
    except (ValueError, RecursionError):
        return {"record": None, "contentBase64": base64.b64encode(content).decode()}
