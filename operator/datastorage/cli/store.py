"""The command that sends records to a server."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from datastorage.assembly.remote import open_remote
from datastorage.cli.opened import with_opened
from datastorage.cli.optiongroups import with_option_groups
from datastorage.cli.options import Output
from datastorage.cli.output import Format, note, print_document, print_table
from datastorage.cli.server import ServerOptions
from datastorage.client.documents import documents_in
from datastorage.client.server import Server
from datastorage.client.storing import Pace, Result, Submission, submission_of
from datastorage.client.storing import store as send
from datastorage.errors import ConfigurationError, DataStorageError, InvalidBodyError

# As much as fits into memory several times; larger files are divided.
_MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_RETRY_SECONDS: Final = Pace().retry_seconds
_MAX_MISTAKES: Final = 10
_WORDS: Final = {200: "stored before", 201: "stored"}

commands = typer.Typer()


@commands.command()
@with_option_groups
def store(
    *,
    files: Annotated[
        list[str],
        typer.Option(
            "--filename", "-f", metavar="FILE", help="File with records, YAML or JSON; - is standard input."
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of records that name none.")
    ] = None,
    atomic: Annotated[
        bool,
        typer.Option(
            "--atomic",
            help="Store all records or none. They go in one request: of one type, at most 500 and 8 MiB.",
        ),
    ] = False,
    retry_seconds: Annotated[
        float,
        typer.Option(help="How long to send again what a busy server (429, 503) has not stored.", min=0),
    ] = _RETRY_SECONDS,
    output: Output = Format.TABLE,
    server: ServerOptions,
) -> None:
    """Send AuditRecords to a server, which stores them.

    A file has records as for kubectl create: YAML of one document or several,
    or JSON as one object, a List, an array, or one object in each line. Nothing
    is sent if a file can't be read.

    The server stores or refuses each record by itself; with --atomic, all or
    none. A record without metadata.uid gets one before it is sent. So it is
    stored once, however often it is sent again. To repeat the whole command
    safely, give each record in the file its own metadata.uid. The exit code is
    1 if a record is not stored.

    Examples:
        datastorage store -f records.yaml --server https://datastorage.example:8443

        datastorage store -f a.json -f b.yaml -n payments -o json

        datastorage store -f records.yaml --atomic

        jq -c '.items[]' list.json | datastorage store -f -
    """
    access = server.access
    if access is None:
        raise ConfigurationError(
            "records are sent to a server: give its URL with --server or DATASTORAGE_SERVER; to store "
            "records without one, create them in the cluster with kubectl create"
        )
    submissions = _submissions(files, namespace)

    reasons: set[str] = set()

    def on_wait(reason: str) -> None:
        if reason not in reasons:
            reasons.add(reason)
            note(f"sent again for up to {retry_seconds:g} s: {reason}")

    async def work(opened: Server) -> list[Result]:
        pace = Pace(retry_seconds=retry_seconds)
        sending = send(opened, submissions, pace, atomic=atomic, on_wait=on_wait)
        return [result async for result in sending]

    results = with_opened(open_remote(access), work)
    order = {submission: place for place, submission in enumerate(submissions)}
    results.sort(key=lambda result: order[result.submission])
    _print(results, output)
    failed = sum(not result.is_stored for result in results)
    if failed:
        raise DataStorageError(f"{failed:,} of {len(results):,} records are not stored")


def _submissions(files: Sequence[str], namespace: str | None) -> list[Submission]:
    """Return the records in the files. Raises InvalidBodyError, after notes, if some can't be sent."""
    found: list[Submission] = []
    mistakes: list[str] = []
    for name in files:
        for document in documents_in("standard input" if name == "-" else name, _content(name)):
            try:
                found.append(submission_of(document, namespace))
            except InvalidBodyError as error:
                mistakes.append(str(error))
    for mistake in mistakes[: _MAX_MISTAKES if len(mistakes) > 1 else 0]:
        note(mistake)
    if len(mistakes) > 1:
        raise InvalidBodyError(f"{len(mistakes):,} documents can't be sent: nothing was sent")
    if mistakes:
        raise InvalidBodyError(f"{mistakes[0]}; nothing was sent")
    if not found:
        raise InvalidBodyError(f"{', '.join(files)}: no records; nothing was sent")
    return found


def _content(name: str) -> bytes:
    try:
        # Not only regular files: a shell gives the output of a program as a pipe.
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"-f {name}: {error.strerror}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"-f {name}: more than {_MAX_FILE_BYTES // 1024 // 1024} MiB: divide it")
    return content


def _print(results: Sequence[Result], output: Format) -> None:
    if output is Format.JSON:
        stored = sum(result.is_stored for result in results)
        items = [_as_json(result) for result in results]
        print_document({"stored": stored, "failed": len(results) - stored, "items": items}, output)
        return
    rows = (
        (
            _WORDS.get(result.status or 0, "FAILED"),
            f"{result.submission.namespace}/{(result.receipt or {}).get('name') or result.submission.name}",
            result.submission.uid,
            result.submission.place,
            result.reason,
        )
        for result in results
    )
    print_table(("RESULT", "RECORD", "UID", "FROM", "WHY"), rows)


def _as_json(result: Result) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "from": result.submission.place,
        "namespace": result.submission.namespace,
        "uid": result.submission.uid,
        "status": result.status,
    }
    if result.receipt is not None:
        return {**answer, "record": result.receipt}
    return {**answer, "reason": result.reason, "problem": result.problem}
