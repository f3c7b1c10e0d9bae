"""The commands that look back: what was done to an object before, and the archive in numbers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Final

import typer

from datastorage.cli.archive import ask_about, finish
from datastorage.cli.filters import FilterOptions
from datastorage.cli.optiongroups import with_option_groups
from datastorage.cli.options import Cursor, Output
from datastorage.cli.output import Format, note, print_document, print_table
from datastorage.cli.server import ServerOptions
from datastorage.cli.times import duration
from datastorage.errors import InvalidQueryError
from datastorage.query.archivesummary import DEFAULT_GROUPS, ArchiveSummary
from datastorage.query.targethistory import HistoryEntry
from datastorage.records.times import rfc3339
from datastorage.storage.groups import Group

commands = typer.Typer()

# Shorter durations are shown with fractions of a second.
_MINUTE_SECONDS: Final = 60


@commands.command()
@with_option_groups
def history(
    object_name: Annotated[
        str,
        typer.Argument(
            metavar="KIND/NAMESPACE/NAME",
            help="The object. KIND/NAME means the objects of that name in all namespaces, and an object "
            "without a namespace, such as Node/worker-1.",
        ),
    ],
    *,
    filters: FilterOptions,
    limit: Annotated[int, typer.Option(help="Number of records to show, 1 to 1,000.")] = 50,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """Print what was done to an object before, and whether it helped.

    These are the AuditRecords about it, and the ActionTraces for it in their
    newest generation; the newest come first. EFFECT is the effectiveness score
    of an ActionTrace, from 0 to 1, or whether the execution of an AuditRecord
    had the intended effect. With -o json, "sentence" says each in words, which
    fit into the prompt of an AI; they are the words of the records.

    Examples:
        datastorage history Deployment/payments/checkout

        datastorage history Node/worker-1 --since 30d --phase Failed

        datastorage history Pod/shop/api --kind ActionTrace -o json
    """
    if filters.target is not None:
        raise InvalidQueryError("--target is the argument of this command: leave the option out")
    if "/" not in object_name:
        raise InvalidQueryError(
            f"{object_name[:50]!r} names no object: give KIND/NAMESPACE/NAME or KIND/NAME, such as "
            "Deployment/payments/checkout"
        )
    chosen = replace(filters, target=object_name)
    found = ask_about(
        server, chosen, lambda archive, filter_: archive.target_history(filter_, limit=limit, cursor=cursor)
    )
    if output is Format.JSON:
        entries = [entry.as_json() for entry in found.entries]
        print_document({"entries": entries, "cursor": found.cursor}, output)
    elif found.entries:
        uid = ("UID",) if output is Format.WIDE else ()
        columns = ("CREATED", "KIND", "RECORD", *uid, "OUTCOME", "EFFECT", "MODEL", "WHAT")
        print_table(columns, (_cells(output, entry) for entry in found.entries))
    if found.cursor is not None and output is not Format.JSON:
        note(f"there are more, earlier ones: --cursor {found.cursor}")
    finish([entry.record for entry in found.entries], chosen, with_objects=False)


@commands.command()
@with_option_groups
def summary(
    *,
    by: Annotated[
        str,
        typer.Option(
            help="One or two of type, namespace, action, targetKind, day; two with a comma in between. "
            "A day is one in UTC."
        ),
    ] = "type",
    filters: FilterOptions,
    limit: Annotated[int, typer.Option(help="Number of groups to show, 1 to 1,000.")] = DEFAULT_GROUPS,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """Count records by groups: failures, durations, effectiveness.

    Of an ActionTrace only the newest generation counts. FAILED counts
    AuditRecords whose phase is Failed, and ActionTraces that failed or were
    rolled back. MEAN, P50 and P95 are durations from start to end: half of the
    records took no longer than P50, 95 % no longer than P95. EFFECT is the mean
    effectiveness score, from 0 to 1.

    Without --since, the last 7 days are counted; 366 days at most.

    Examples:
        datastorage summary --by action --since 7d

        datastorage summary --by namespace,day --phase Failed

        datastorage summary --by targetKind --namespace payments -o json
    """
    found = ask_about(
        server, filters, lambda archive, filter_: archive.summary(filter_, by.split(","), limit=limit)
    )
    if output is Format.JSON:
        print_document(found.as_json(), output)
    elif found.groups:
        keys = (_heading(key) for key in found.keys)
        print_table((*keys, "RECORDS", "FAILED", "MEAN", "P50", "P95", "EFFECT"), _rows(found))
    if not found.groups:
        note(f"no records found since {rfc3339(found.since)}")
    if found.is_cut:
        note(f"note: these are the first {len(found.groups):,} of {found.all_groups:,} groups: see --limit")


def _cells(output: Format, entry: HistoryEntry) -> tuple[str, ...]:
    record, facts = entry.record, entry.facts
    uid = (record.uid,) if output is Format.WIDE else ()
    name = f"{record.namespace}/{record.name}"
    success, score = facts["success"], facts["effectivenessScore"]
    effect = "" if success is None else ("yes" if success else "no")
    if score is not None:
        effect = f"{score:.2f}"
    return (
        rfc3339(record.created_at), record.kind, name, *uid, facts["outcome"] or "", effect,
        facts["model"] or "", facts["summary"],
    )  # fmt: skip


def _heading(key: str) -> str:
    return "TARGET KIND" if key == "targetKind" else key.upper()


def _rows(found: ArchiveSummary) -> Iterator[tuple[str, ...]]:
    for group in found.groups:
        keys = (value if value is not None else "-" for value in group.key)
        yield (*keys, f"{group.records:,}", f"{group.failed:,}", *_durations(group), _score(group))


def _durations(group: Group) -> tuple[str, ...]:
    return tuple(map(_seconds, (group.mean_seconds, group.p50_seconds, group.p95_seconds)))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f}s" if seconds < _MINUTE_SECONDS else duration(seconds)


def _score(group: Group) -> str:
    return "" if group.effectiveness is None else f"{group.effectiveness:.2f}"
