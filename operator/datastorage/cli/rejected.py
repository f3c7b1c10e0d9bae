"""The commands that show the rejected records, and try them again."""

import base64
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from datastorage.assembly.commands import OpenedRetry, open_rejected, open_retry
from datastorage.cli.opened import as_service_role, with_opened
from datastorage.cli.options import Cursor, DocumentOutput, Output, parse_uid
from datastorage.cli.output import DocumentFormat, Format, note, note_named, print_document, print_table
from datastorage.cli.progress import display, following
from datastorage.errors import InvalidQueryError, RecordNotFoundError
from datastorage.pipeline.rejectedretry import RetryProgress
from datastorage.query.cursor import rejected_cursor, rejected_position
from datastorage.query.filters import check_limit
from datastorage.records.hashes import sha256
from datastorage.records.times import rfc3339
from datastorage.resources.reading.registry import kind_of
from datastorage.settings import load_settings
from datastorage.storage.rejected import Content, RejectedCriteria, RejectedRecord, RejectedRecords

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

    REASON is what PostgreSQL said when it refused the record.

    Examples:
        datastorage rejected list

        datastorage rejected list --reason "text search" --namespace payments -o json
    """
    check_limit(limit)
    wanted = RejectedCriteria(resolved=resolved, namespace=namespace, reason=reason)
    after = None if cursor is None else rejected_position(cursor)
    found = with_opened(
        open_rejected(load_settings()),
        lambda records: records.list(wanted, after=after, limit=limit + 1),  # one more: is there a next page?
    )
    records, more = found[:limit], len(found) > limit
    next_cursor = rejected_cursor(records[-1].position) if more else None
    if output is Format.JSON:
        print_document({"records": [_as_json(record) for record in records], "cursor": next_cursor}, output)
    elif records:
        _print_records(records, output)
        if next_cursor is not None:
            note(f"there are more: --cursor {next_cursor}")
    else:
        note("no records are rejected" if wanted == RejectedCriteria() else "no rejected records match")


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

    "intact" says whether the kept bytes still have the SHA-256 that was noted
    when they were rejected.

    Examples:
        datastorage rejected show 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12

        datastorage rejected show 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12 --raw > record.json
    """
    wanted = RejectedCriteria(resolved=True, uid=parse_uid("UID", uid))

    async def ask(table: RejectedRecords) -> tuple[RejectedRecord, Content]:
        for found in await table.list(wanted, after=None, limit=_MOST_GENERATIONS):
            if generation in {None, found.key.generation}:
                return found, (await table.contents([found.key]))[found.key]
        raise RecordNotFoundError(f"no record of {uid} was rejected: `datastorage rejected list` shows all")

    record, kept = with_opened(open_rejected(load_settings()), ask)
    if raw:
        sys.stdout.buffer.write(kept.content)
        return
    intact = sha256(kept.content) == kept.content_hash
    print_document({**_as_json(record), "intact": intact, **_record(kept.content)}, output)


@rejected.command()
def retry(
    uid: Annotated[str | None, typer.Argument(metavar="[UID]", help="Only records of this object.")] = None,
    *,
    reason: _Reason = None,
    namespace: _Namespace = None,
    all: Annotated[bool, typer.Option("--all", help="All of them.")] = False,  # noqa: A002  # the option's name
) -> None:
    """Store rejected records from their kept bytes.

    It makes no difference whether their objects still exist.

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

    One of UID, --reason, --namespace and --all is required.

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
    wanted = RejectedCriteria(uid=wanted_uid, namespace=namespace, reason=reason)
    retried = with_opened(open_retry(load_settings()), lambda opened: _retry(opened, wanted))
    if not retried.done:
        if not all:
            raise RecordNotFoundError(_NOTHING)
        note(_NOTHING)
    typer.echo(f"stored: {retried.stored:,}")
    note_named("still rejected", retried.refused, [_named(*refused) for refused in retried.refused_named])
    if retried.refused:
        raise typer.Exit(1)


async def _retry(opened: OpenedRetry, criteria: RejectedCriteria) -> RetryProgress:
    total = await opened.rejected.count(criteria)
    if not total:
        return RetryProgress()
    with as_service_role():
        # If PostgreSQL refuses every record, the rejected ones are not the cause.
        await opened.trial.write()
    with display() as view:

        def look() -> None:
            done = opened.work.progress.done
            view.show("records", done, max(total, done))

        async with following(look):
            return await opened.work.run(criteria)


def _named(record: RejectedRecord, why: str) -> str:
    return f"{kind_of(record.table).kind} {record.namespace}/{record.name} ({record.key.uid}): {why}"


def _print_records(records: Sequence[RejectedRecord], output: Format) -> None:
    wide = output is Format.WIDE
    stored = ("STORED",) if any(record.resolved_at for record in records) else ()
    rows = [
        (
            rfc3339(record.rejected_at, "seconds"),
            *((_resolved(record),) if stored else ()),
            kind_of(record.table).kind, f"{record.namespace}/{record.name}", record.key.uid,
            *((str(record.key.generation), f"{record.size:,}") if wide else ()), record.reason,
        )
        for record in records
    ]  # fmt: skip
    more = ("GENERATION", "BYTES") if wide else ()
    print_table(("REJECTED", *stored, "KIND", "RECORD", "UID", *more, "REASON"), rows)


def _resolved(record: RejectedRecord) -> str:
    return rfc3339(record.resolved_at, "seconds") if record.resolved_at is not None else ""


def _as_json(record: RejectedRecord) -> dict[str, Any]:
    return {
        "kind": kind_of(record.table).kind, "namespace": record.namespace, "name": record.name,
        "uid": record.key.uid, "generation": record.key.generation,
        "createdAt": rfc3339(record.key.created_at), "rejectedAt": rfc3339(record.rejected_at),
        "storedAt": rfc3339(record.resolved_at) if record.resolved_at is not None else None,
        "bytes": record.size, "reason": record.reason,
    }  # fmt: skip


def _record(content: bytes) -> dict[str, Any]:
    try:
        return {"record": json.loads(content)}
    except (ValueError, RecursionError):
        return {"record": None, "contentBase64": base64.b64encode(content).decode()}
