"""The tables of records that commands print, and the JSON of a search."""

from datastorage.cli.output import Format, print_document, print_table
from datastorage.query.archivedrecord import ArchivedRecord
from datastorage.query.searchresult import SearchHit, SearchResult
from datastorage.query.timeline import Timeline
from datastorage.records.times import rfc3339
from datastorage.resources.reading.registry import reading_named


def columns(output: Format, *first: str) -> tuple[str, ...]:
    """Return the columns of a table of records; ``first`` are those before the record's own."""
    uid = ("UID",) if output is Format.WIDE else ()
    return (*first, "KIND", "RECORD", *uid, "OUTCOME", "TARGET", "WHAT")


def cells(output: Format, record: ArchivedRecord, *first: str) -> tuple[str, ...]:
    """Return the cells of a record, below ``columns``."""
    uid = (record.uid,) if output is Format.WIDE else ()
    name = f"{record.namespace}/{record.name}"
    reading, spec = reading_named(record.kind), record.spec
    said = (reading.outcome(spec), reading.target(spec), reading.in_brief(spec))
    return (*first, record.kind, name, *uid, *said)


def print_search(result: SearchResult, output: Format) -> None:
    """Print the hits of a search."""
    if output is Format.JSON:
        hits = [hit.as_json() for hit in result.hits]
        about = {"mode": result.mode.value, "degraded": result.degraded, "leftOut": result.left_out}
        print_document({**about, "results": hits}, output)
    elif result.hits:
        rows = (
            cells(
                output,
                hit.record,
                "" if hit.similarity is None else f"{hit.similarity:.2f}",
                *([", ".join(hit.found_by)] if output is Format.WIDE else []),
                f"+{hit.more}" if hit.more else "",
                _incident(hit),
                rfc3339(hit.record.created_at),
            )
            for hit in result.hits
        )
        found_by = ("FOUND BY",) if output is Format.WIDE else ()
        print_table(columns(output, "SIMILARITY", *found_by, "MORE", "INCIDENT", "CREATED"), rows)


def _incident(hit: SearchHit) -> str:
    more = f" +{hit.more_of_incident}" if hit.more_of_incident else ""
    return f"{hit.correlation_id or ''}{more}"


def print_timeline(found: Timeline, output: Format) -> None:
    """Print the entries of a timeline as a table."""
    rows = (
        cells(output, entry.record, rfc3339(entry.at), str(entry.record.generation))
        for entry in found.entries
    )
    print_table(columns(output, "AT", "GENERATION"), rows)
