"""The commands that read the archive: in a database, which needs no cluster, or over HTTP."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer

from datastorage.assembly.opened import OpenedArchive
from datastorage.cli.filters import FilterOptions, Kind, Namespace
from datastorage.cli.opened import with_opened
from datastorage.cli.optiongroups import with_option_groups
from datastorage.cli.options import Cursor, DocumentOutput, Output
from datastorage.cli.output import DocumentFormat, Format, note, print_document, print_table
from datastorage.cli.recordtables import cells, columns, print_search, print_timeline
from datastorage.cli.server import ServerOptions
from datastorage.errors import DataStorageError, InvalidQueryError
from datastorage.query.absentidentifiers import absent_identifiers
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.filters import MAX_LIMIT, Filter, SearchMode
from datastorage.query.interface import Archive
from datastorage.query.searchresult import SearchResult
from datastorage.records.times import rfc3339
from datastorage.storage.criteria import Scope

T = TypeVar("T")

# After the restore of a whole cluster, notes must not bury the answer.
_MAX_NOTES: Final = 5

commands = typer.Typer()


@commands.command()
@with_option_groups
def search(
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION",
            help="A question, as you would ask a colleague. Records with the exact identifiers or "
            '"quoted words" of the question come first. -word leaves out records with that word (-5 is a '
            "number; put -- before a question that begins with -).",
        ),
    ],
    *,
    filters: FilterOptions,
    mode: Annotated[
        SearchMode | None,
        typer.Option(
            help="By meaning (vector), by words (text), or by both at once (hybrid). By words, "
            '"quoted words" must stand next to each other.',
            show_default="hybrid",
        ),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="The same as --mode hybrid.")] = False,
    limit: Annotated[int, typer.Option(help="Number of records to show, 1 to 1,000.")] = 10,
    flat: Annotated[
        bool,
        typer.Option(
            "--flat",
            help="A plain list in the order of the scores, however many of the records are of one incident.",
        ),
    ] = False,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """Search the archive by meaning and by words.

    Every AuditRecord is searched, and the newest generation of every
    ActionTrace. Of records with the same text, a few are shown; the column MORE
    counts the others. SIMILARITY is 1 where the meaning is the same; the words
    count, too, so it may rise from line to line. With -o wide, FOUND BY says
    whether meaning, words or both have found the record; whether it comes first
    because of a clue: it has an identifier of the question, all of its quoted
    words, or all of its words; and whether it ranks higher than it would without
    others of its incident, or is there only because of them.

    Records with the same correlation ID are of one INCIDENT. They stand
    together, three at most, and +N counts the others: 'datastorage timeline'
    shows all of them.

    Examples:
        datastorage search "what did we do about OOM kills in payments?"

        datastorage search "certificate expired" --since 7d --namespace ingress

        datastorage search '"no space left" -postgres' --mode text -o json

        datastorage search "what was tried before the rollback?" --flat
    """
    if hybrid and mode not in {None, SearchMode.HYBRID}:
        raise InvalidQueryError(f"--hybrid can't be combined with --mode {mode}")

    async def ask(archive: Archive, chosen: Filter) -> tuple[SearchResult, list[str]]:
        result = await archive.search(
            question, chosen, mode=mode or SearchMode.HYBRID, limit=limit, flat=flat
        )
        return result, await absent_identifiers(archive, question, chosen, result.hits)

    result, absent = ask_about(server, filters, ask, search=mode or SearchMode.HYBRID)
    if result.degraded is not None:
        by = "meaning" if result.mode is SearchMode.VECTOR else "words"
        note(f"note: searched by {by} only: {result.degraded}")
    print_search(result, output)
    if result.left_out:
        note(
            f"note: {result.left_out} more would make the answer too large: narrow the search with --since, "
            "--namespace or another condition"
        )
    for identifier in absent:
        within = "" if filters == FilterOptions() else " within these filters"
        similar = "; the records above are merely similar" if result.hits else ""
        note(f"note: {identifier!r} finds no record{within}{similar}")
    finish([hit.record for hit in result.hits], filters)


@commands.command("list")
@with_option_groups
def list_(
    *,
    filters: FilterOptions,
    limit: Annotated[int, typer.Option(help="Number of records to show, 1 to 1,000.")] = 50,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """List records, the newest first.

    Each AuditRecord is one line, and so is each ActionTrace, in its newest
    generation. The order is that of creation.

    Examples:
        datastorage list --since 24h --phase Failed

        datastorage list --kind ActionTrace --target Deployment/payments/checkout

        datastorage list --namespace payments --limit 1000 -o json
    """
    page = ask_about(
        server, filters, lambda archive, chosen: archive.list(chosen, limit=limit, cursor=cursor)
    )
    if output is Format.JSON:
        records = [record.as_json() for record in page.records]
        print_document({"records": records, "cursor": page.cursor}, output)
    elif page.records:
        rows = (cells(output, record, rfc3339(record.created_at)) for record in page.records)
        print_table(columns(output, "CREATED"), rows)
        if page.cursor is not None:
            note(f"there are more: --cursor {page.cursor}")
    finish(page.records, filters)


@commands.command()
@with_option_groups
def get(
    record: Annotated[
        str, typer.Argument(metavar="UID|NAMESPACE/NAME", help="UID, or namespace and name, of the object.")
    ],
    *,
    namespace: Namespace = None,
    generation: Annotated[
        int | None, typer.Option(help="This generation instead of the newest. Needs a UID.")
    ] = None,
    history: Annotated[
        bool,
        typer.Option("--history", help="The stored generations, the newest first. Needs a UID."),
    ] = False,
    kind: Kind = None,
    output: DocumentOutput = DocumentFormat.YAML,
    server: ServerOptions,
) -> None:
    """Print one record.

    It is the newest generation of the object. Where several objects had the
    same name one after another, it is the newest of them.

    --history prints the stored generations, the newest 1,000 at most; use
    --generation for an earlier one. A generation with several contents is
    printed once for each, marked diverged: the cluster was restored from a
    backup, or cloned.

    Examples:
        datastorage get 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12

        datastorage get 0f8e2c1a-5b7d-4c3e-9a61-2d4f6b8c0e12 --history -o json

        datastorage get payments/rr-2026-0042-execution -o json

        datastorage get rr-2026-0042-execution -n payments
    """
    if history and generation is not None:
        raise InvalidQueryError("--history shows all generations: leave out --generation")
    name = _name_of(record, namespace)
    if name is not None and generation is not None:
        raise InvalidQueryError("--generation needs a UID: other objects may have had the same name")
    if history:
        if name is not None:
            raise InvalidQueryError(f"--history needs a UID: 'datastorage get {'/'.join(name)}' shows it")
        generations = _ask(server, lambda archive: archive.history(record, kind, scope=Scope(namespace)))
        print_document({"records": [stored.as_json() for stored in generations]}, output)
        finish(generations)
        return

    async def ask(archive: Archive) -> ArchivedRecord:
        if name is not None:
            return await archive.get_by_name(*name, kind, scope=Scope(namespace))
        return await archive.get(record, generation, kind, scope=Scope(namespace))

    found = _ask(server, ask)
    print_document(found.as_json(), output)
    finish([found])


def _name_of(record: str, namespace: str | None) -> tuple[str, str] | None:
    """Return namespace and name of the record that is asked for, or None for a UID."""
    before, slash, after = record.partition("/")
    if slash:
        if namespace not in {None, before}:
            raise InvalidQueryError(f"--namespace {namespace} contradicts {record}: leave one of them out")
        return before, after
    try:
        uuid.UUID(record)
    except ValueError:
        if namespace is None:
            given = record[:50]
            raise InvalidQueryError(
                f"{given!r} is neither a UID nor NAMESPACE/NAME: give it with its namespace, as "
                f"payments/{given}"
            ) from None
        return namespace, record
    return None


@commands.command()
@with_option_groups
def timeline(
    correlation_id: Annotated[
        str, typer.Argument(metavar="CORRELATION_ID", help="Correlation ID of the incident.")
    ],
    *,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(help="Number of entries to show, 1 to 1,000.")] = MAX_LIMIT,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """Print all records of one incident, in the order of events.

    Each AuditRecord is one entry, and so is every generation of an ActionTrace.
    The time of an AuditRecord is its startTime, otherwise its creation. The
    time of a generation is the latest of its creation, start, end and
    assessment. Entries with equal times are in the order in which the cluster
    wrote the objects.

    Examples:
        datastorage timeline rr-2026-0042

        datastorage timeline rr-2026-0042 --limit 100 -o json
    """
    found = _ask(
        server,
        lambda archive: archive.timeline(correlation_id, scope=Scope(namespace), limit=limit, cursor=cursor),
    )
    if output is Format.JSON:
        entries = [entry.as_json() for entry in found.entries]
        print_document({"entries": entries, "complete": found.complete, "cursor": found.cursor}, output)
    elif found.entries:
        print_timeline(found, output)
    if found.cursor is not None:
        note(f"there are more, later ones: --cursor {found.cursor}")
    finish([entry.record for entry in found.entries])


def opening(
    server: ServerOptions, *, search: SearchMode | None = None
) -> AbstractAsyncContextManager[OpenedArchive]:
    """Return the archive of the server that the options name, or of the database of the settings.

    The database can be searched in the mode ``search`` only.
    """
    access = server.access
    # The libraries of each way take longer to load than most questions take to answer.
    if access is not None:
        from datastorage.assembly.remote import open_remote_queries  # noqa: PLC0415  # as above

        return open_remote_queries(access)
    from datastorage.settings import load_settings  # noqa: PLC0415  # as above

    if search not in {None, SearchMode.TEXT}:
        from datastorage.assembly.searching import open_search  # noqa: PLC0415  # as above

        return open_search(load_settings())
    from datastorage.assembly.queries import open_queries  # noqa: PLC0415  # as above

    return open_queries(load_settings(), searching=search is not None)


def _ask(server: ServerOptions, question: Callable[[Archive], Awaitable[T]]) -> T:
    """Put a question to the archive, and return the answer."""
    return with_opened(opening(server), lambda opened: question(opened.archive))


def ask_about(
    server: ServerOptions,
    filters: FilterOptions,
    question: Callable[[Archive, Filter], Awaitable[T]],
    *,
    search: SearchMode | None = None,
) -> T:
    """Put a question about chosen records to the archive, and return the answer.

    "An hour ago" counts from the archive's clock: one here that runs ahead would hide the newest records.
    """

    async def answer(opened: OpenedArchive) -> T:
        now = datetime.now(UTC)
        if filters.is_relative:
            now = datetime.fromtimestamp(await opened.time(), UTC)
        return await question(opened.archive, filters.at(now))

    return with_opened(opening(server, search=search), answer)


def finish(
    records: Sequence[ArchivedRecord], filters: FilterOptions | None = None, *, with_objects: bool = True
) -> None:
    """Print notes and warnings about the answer to standard error.

    Without ``with_objects``, the answer does not show the objects of the records.

    Raises DataStorageError where a record is not as it was stored, or can't be read.
    """
    if not records:
        note("no records found")
        if filters is not None and filters.doubt is not None:
            note(f"note: {filters.doubt}")
    diverged = [record for record in records if record.diverged]
    for record in diverged[:_MAX_NOTES]:
        note(
            f"note: of {record.kind} {record.namespace}/{record.name}, generation {record.generation}, "
            "another content is stored as well (a restored or cloned cluster): "
            f"datastorage get {record.uid} --history"
        )
    changed = [record for record in records if not record.intact]
    for record in changed:
        note(
            f"WARNING: {_named(record)} has been changed in the archive: its content does not match its hash"
        )
    unread = [record for record in records if with_objects and record.intact and not record.object]
    for record in unread:
        note(f"WARNING: {_named(record)} is nested too deep to be read here; it is stored as it was")
    if changed:
        raise DataStorageError(f"{len(changed)} of {len(records)} records are not as they were stored")
    if unread:
        raise DataStorageError(f"{len(unread)} of {len(records)} records can't be read here")


def _named(record: ArchivedRecord) -> str:
    return f"{record.kind} {record.namespace}/{record.name} ({record.uid}, generation {record.generation})"
