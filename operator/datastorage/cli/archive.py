"""The commands that read the archive. They need the database alone, no cluster."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from datastorage.cli.output import DocumentFormat, Format, note, print_document, print_table
from datastorage.cli.times import parse_time
from datastorage.errors import DataStorageError, InvalidQueryError
from datastorage.query.filters import MAX_LIMIT, Filter, SearchMode
from datastorage.query.questions import ArchiveQueries
from datastorage.query.records import ArchivedRecord
from datastorage.query.search import SearchResult
from datastorage.query.summary import outcome_of, summary_of, target_of
from datastorage.query.timeline import Timeline
from datastorage.records.deepjson import make_room_for_deep_json
from datastorage.records.times import rfc3339
from datastorage.settings import load_settings

if TYPE_CHECKING:
    from datastorage.assembly.queries import Questions

T = TypeVar("T")

_Chosen = Callable[[datetime], Filter]
"""Returns which records are asked for, when it is told what time it is."""

_PANEL: Final = "The archive"
# A whole cluster that was restored must not bury the answer.
_MAX_NOTES: Final = 5

commands = typer.Typer()

_Output = Annotated[Format, typer.Option("--output", "-o", help="What to print.")]
_Kind = Annotated[str | None, typer.Option(help="AuditRecord or ActionTrace.", show_default="both")]
_Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the object.")]
_Type = Annotated[
    str | None,
    typer.Option(
        help="Type of an AuditRecord: Remediation, AIAnalysis, Workflow or Execution. "
        "With --kind ActionTrace: its actionType."
    ),
]
_Correlation = Annotated[str | None, typer.Option(help="Correlation ID of the remediation.")]
_Since = Annotated[
    str | None, typer.Option(help="Created at or after this: 2026-03-05T10:00:00Z, or 90m, 24h, 7d ago.")
]
_Until = Annotated[str | None, typer.Option(help="Created before this; as --since.")]
_Phase = Annotated[
    str | None, typer.Option(help="Outcome: phase of an AuditRecord, execution status of an ActionTrace.")
]
_Severity = Annotated[str | None, typer.Option(help="Severity, such as critical.")]
_Target = Annotated[
    str | None, typer.Option(help="What it was about: KIND, KIND/NAME or KIND/NAMESPACE/NAME.")
]
_Cursor = Annotated[str | None, typer.Option(help="Go on where an earlier page ended.")]


@commands.command(rich_help_panel=_PANEL)
def search(  # noqa: PLR0913  # options are parameters here
    question: Annotated[
        str,
        typer.Argument(
            help="What to search for, as you would ask a colleague. The few records that have an identifier "
            'or "quoted words" of it come first. -word must not be there (-5 is a number; put -- before a '
            'question that begins so); for the search by words, "quoted words" must stand beside each other.'
        ),
    ],
    *,
    kind: _Kind = None,
    namespace: _Namespace = None,
    type: _Type = None,  # noqa: A002  # the name of the option
    correlation: _Correlation = None,
    since: _Since = None,
    until: _Until = None,
    phase: _Phase = None,
    severity: _Severity = None,
    target: _Target = None,
    mode: Annotated[
        SearchMode | None,
        typer.Option(
            help="By meaning (vector), by words (text), or by both at once (hybrid).", show_default="hybrid"
        ),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="The same as --mode hybrid.")] = False,
    limit: Annotated[int, typer.Option(help="Records to show, 1 to 1,000.")] = 10,
    output: _Output = Format.TABLE,
) -> None:
    """Search the archive by meaning and by words.

    Of an ActionTrace the newest generation is searched. Of records that say the same a few are shown, and
    how many more there are.

    Examples:
        datastorage search "what did we do about OOM kills in payments?"

        datastorage search "certificate expired" --since 7d --namespace ingress

        datastorage search '"no space left" -postgres' --mode text -o json
    """
    chosen = _filter(
        kind=kind, namespace=namespace, type=type, correlation_id=correlation, since=since, until=until,
        phase=phase, severity=severity, target=target,
    )  # fmt: skip
    if hybrid and mode not in {None, SearchMode.HYBRID}:
        raise InvalidQueryError(f"--hybrid and --mode {mode} exclude each other")
    wanted = mode or SearchMode.HYBRID
    result = _ask_about(
        chosen, lambda archive, filter_: archive.search(question, filter_, mode=wanted, limit=limit)
    )
    if result.degraded is not None:
        note(f"note: searched by words only: {result.degraded}")
    _print_search(result, output)
    _finish(hit.record for hit in result.hits)


@commands.command("list", rich_help_panel=_PANEL)
def list_(  # noqa: PLR0913  # options are parameters here
    *,
    kind: _Kind = None,
    namespace: _Namespace = None,
    type: _Type = None,  # noqa: A002  # the name of the option
    correlation: _Correlation = None,
    since: _Since = None,
    until: _Until = None,
    phase: _Phase = None,
    severity: _Severity = None,
    target: _Target = None,
    limit: Annotated[int, typer.Option(help="Records to show, 1 to 1,000.")] = 50,
    cursor: _Cursor = None,
    output: _Output = Format.TABLE,
) -> None:
    """List records, the newest created first; of an ActionTrace the newest generation.

    Examples:
        datastorage list --since 24h --phase Failed

        datastorage list --kind ActionTrace --type scale_deployment --target Deployment/payments/checkout

        datastorage list --namespace payments --limit 1000 -o json
    """
    chosen = _filter(
        kind=kind, namespace=namespace, type=type, correlation_id=correlation, since=since, until=until,
        phase=phase, severity=severity, target=target,
    )  # fmt: skip
    page = _ask_about(chosen, lambda archive, filter_: archive.list(filter_, limit=limit, cursor=cursor))
    if output is Format.JSON:
        records = [record.as_json() for record in page.records]
        print_document({"records": records, "cursor": page.cursor}, output)
    elif page.records:
        rows = (_cells(output, record, rfc3339(record.created_at)) for record in page.records)
        print_table(_columns(output, "CREATED"), rows)
        if page.cursor is not None:
            note(f"there are more: --cursor {page.cursor}")
    _finish(page.records)


@commands.command(rich_help_panel=_PANEL)
def get(
    record: Annotated[str, typer.Argument(metavar="UID|NAMESPACE/NAME", help="Which object.")],
    generation: Annotated[
        int | None, typer.Option(help="Of a UID: not the newest generation but this one.")
    ] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="Of a UID: all that is stored of the object, the newest first."),
    ] = False,
    kind: _Kind = None,
    output: Annotated[
        DocumentFormat, typer.Option("--output", "-o", help="What to print.")
    ] = DocumentFormat.YAML,
) -> None:
    """Print one record: the newest generation of an object, of several of one name the newest object.

    With --history it prints every generation that is stored, and every content of a generation that has
    several (diverged): the cluster was restored from a backup, or cloned.

    Examples:
        datastorage get 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12

        datastorage get 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12 --history -o json

        datastorage get payments/rr-2026-0042-execution -o json
    """
    namespace, slash, name = record.partition("/")
    if slash and generation is not None:
        raise InvalidQueryError("--generation needs a UID: other objects may have had the same name")
    if history:
        if slash or generation is not None:
            raise InvalidQueryError("--history needs a UID, and no --generation")
        everything = _ask(lambda archive: archive.history(record))
        print_document({"records": [each.as_json() for each in everything]}, output)
        _finish(everything)
        return
    found = _ask(
        lambda archive: (
            archive.get_by_name(namespace, name, kind) if slash else archive.get(record, generation, kind)
        )
    )
    print_document(found.as_json(), output)
    _finish([found])


@commands.command(rich_help_panel=_PANEL)
def timeline(
    correlation_id: Annotated[str, typer.Argument(help="Correlation ID of the remediation.")],
    *,
    limit: Annotated[int, typer.Option(help="Entries to show, 1 to 1,000.")] = MAX_LIMIT,
    cursor: _Cursor = None,
    output: _Output = Format.TABLE,
) -> None:
    """Print all records of one remediation, with every generation of its traces, in the order of events.

    An AuditRecord stands at its startTime, else at its creation; a generation of an ActionTrace at the newest
    time that it tells: its creation, start, end or assessment. Where times are equal, the order is that in
    which the cluster wrote the objects. Entries that do not fit follow with --cursor, in the same order.

    Examples:
        datastorage timeline rr-2026-0042

        datastorage timeline rr-2026-0042 --limit 100 -o json
    """
    found = _ask(lambda archive: archive.timeline(correlation_id, limit=limit, cursor=cursor))
    if output is Format.JSON:
        entries = [{"at": rfc3339(entry.at), **entry.record.as_json()} for entry in found.entries]
        print_document({"entries": entries, "complete": found.complete, "cursor": found.cursor}, output)
    elif found.entries:
        _print_timeline(found, output)
    if found.cursor is not None:
        note(f"there are more, later ones: --cursor {found.cursor}")
    _finish(entry.record for entry in found.entries)


def _columns(output: Format, *first: str) -> tuple[str, ...]:
    uid = ("UID",) if output is Format.WIDE else ()
    return (*first, "KIND", "RECORD", *uid, "OUTCOME", "TARGET", "WHAT")


def _cells(output: Format, record: ArchivedRecord, *first: str) -> tuple[str, ...]:
    uid = (record.uid,) if output is Format.WIDE else ()
    name = f"{record.namespace}/{record.name}"
    return (*first, record.kind, name, *uid, outcome_of(record), target_of(record), summary_of(record))


def _print_search(result: SearchResult, output: Format) -> None:
    if output is Format.JSON:
        hits = [
            {"score": hit.score, "similarity": hit.similarity, "more": hit.more, **hit.record.as_json()}
            for hit in result.hits
        ]
        print_document({"mode": result.mode.value, "degraded": result.degraded, "results": hits}, output)
    elif result.hits:
        rows = (
            _cells(
                output,
                hit.record,
                "" if hit.similarity is None else f"{hit.similarity:.2f}",
                f"+{hit.more}" if hit.more else "",
                rfc3339(hit.record.created_at),
            )
            for hit in result.hits
        )
        print_table(_columns(output, "SIMILARITY", "MORE", "CREATED"), rows)


def _print_timeline(found: Timeline, output: Format) -> None:
    rows = (
        _cells(output, entry.record, rfc3339(entry.at), str(entry.record.generation))
        for entry in found.entries
    )
    print_table(_columns(output, "AT", "GENERATION"), rows)


def _filter(*, since: str | None, until: str | None, target: str | None, **values: str | None) -> _Chosen:
    kind, namespace, name = _target(target)

    def chosen(now: datetime) -> Filter:
        return Filter(
            since=None if since is None else parse_time("--since", since, now),
            until=None if until is None else parse_time("--until", until, now),
            target_kind=kind,
            target_namespace=namespace,
            target_name=name,
            **values,
        )

    chosen(datetime.now(UTC))  # says what is wrong before anything connects
    return chosen


def _target(text: str | None) -> tuple[str | None, str | None, str | None]:
    match text.split("/") if text is not None else []:
        case []:
            return None, None, None
        case [kind]:
            return kind, None, None
        case [kind, name]:
            return kind, None, name
        case [kind, namespace, name]:
            return kind, namespace, name
    raise InvalidQueryError("--target must be KIND, KIND/NAME or KIND/NAMESPACE/NAME")


def _ask(question: Callable[[ArchiveQueries], Awaitable[T]]) -> T:
    """Put a question to the archive that the settings name, and return the answer."""
    return _answer(lambda questions: question(questions.archive))


def _ask_about(chosen: _Chosen, question: Callable[[ArchiveQueries, Filter], Awaitable[T]]) -> T:
    """Put a question about chosen records to the archive, and return the answer.

    "An hour ago" counts from the archive's clock: by one here that runs ahead, the newest records would be
    hidden.
    """

    async def answer(questions: "Questions") -> T:
        now = datetime.fromtimestamp(await questions.time(), UTC)
        return await question(questions.archive, chosen(now))

    return _answer(answer)


def _answer(answer: Callable[["Questions"], Awaitable[T]]) -> T:
    make_room_for_deep_json()
    return asyncio.run(_put(answer))


async def _put(answer: Callable[["Questions"], Awaitable[T]]) -> T:
    from datastorage.assembly.queries import open_queries  # noqa: PLC0415  # loads much

    async with open_queries(load_settings()) as questions:
        return await answer(questions)


def _finish(records: Iterable[ArchivedRecord]) -> None:
    """Say what is wrong with the answer, if something is."""
    shown = list(records)
    if not shown:
        note("no records found")
    diverged = [record for record in shown if record.diverged]
    for record in diverged[:_MAX_NOTES]:
        note(
            f"note: of {record.kind} {record.namespace}/{record.name}, generation {record.generation}, "
            "another content is stored as well (a restored or cloned cluster): "
            f"datastorage get {record.uid} --history"
        )
    changed = [record for record in shown if not record.intact]
    for record in changed:
        note(
            f"WARNING: {record.kind} {record.namespace}/{record.name} ({record.uid}, generation "
            f"{record.generation}) has been changed in the archive: its content does not have its hash"
        )
    unread = [record for record in shown if record.intact and not record.object]
    for record in unread:
        note(
            f"WARNING: {record.kind} {record.namespace}/{record.name} ({record.uid}, generation "
            f"{record.generation}) is nested too deep to be read here; it is stored as it was"
        )
    if changed:
        raise DataStorageError(f"{len(changed)} of {len(shown)} records are not as they were stored")
    if unread:
        raise DataStorageError(f"{len(unread)} of {len(shown)} records can't be read here")
