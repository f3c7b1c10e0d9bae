"""``datastorage export``: a file that is complete only with its last line, and goes on where it broke off."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from datastorage.cli.exportfile import ExportFile
from datastorage.errors import (
    DataStorageError,
    IncompleteExportError,
    InvalidQueryError,
    NotAllowedError,
    TransientError,
)
from datastorage.query.export import end_line
from datastorage.storage.connection.database import Database
from datastorage.storage.write import Archive
from harness.objects import audit_record, record_of
from harness.postgres import TestDatabase, connect
from tests.support.commandline import Command, command_of, use_database


@pytest.fixture
def command(
    cloned: TestDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    use_database(monkeypatch, cloned.service_url, tmp_path / "none")
    return command_of(monkeypatch, capsys, "export")


@pytest.fixture
def store(cloned: TestDatabase) -> "Store":
    return Store(cloned)


class Store:
    """Stores records, in an event loop that ends before the command begins its own."""

    def __init__(self, database: TestDatabase) -> None:
        self._database = database

    def __call__(self, *names: str, namespace: str = "payments") -> None:
        asyncio.run(self._store(names, namespace))

    async def _store(self, names: tuple[str, ...], namespace: str) -> None:
        database = Database(self._database.service_url, pool_size=1)
        await Archive(database).write(
            [record_of(audit_record(name=name, namespace=namespace)) for name in names]
        )
        await database.close()

    def execute(self, sql: str) -> None:
        async def run() -> None:
            owner = await connect(self._database.owner_url)
            await owner.execute(sql)
            await owner.close()

        asyncio.run(run())


def checked(path: Path) -> list[str]:
    """Return the names of the records in a complete file."""
    *lines, end = path.read_bytes().splitlines(keepends=True)
    found = json.loads(end)
    assert (found["kind"], found["count"]) == ("ExportEnd", len(lines))
    assert found["linesHash"] == f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"
    return [json.loads(line)["name"] for line in lines]


def test_a_file_is_written_and_gets_what_is_stored_later(
    command: Command, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "archive.ndjson"
    store("a", "b")
    code, out, err = command("--output", str(path))
    assert (code, out) == (0, "")
    assert "records exported: 2" in err
    assert checked(path) == ["a", "b"]
    first = path.read_bytes()
    assert command("--output", str(path), "--resume")[0] == 0
    assert path.read_bytes() == first
    store("c")
    assert command("--output", str(path), "--resume")[0] == 0
    assert checked(path) == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [0, 1, 20, 500, 900, 10_000])
def test_a_file_that_broke_off_is_continued(command: Command, store: Store, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "archive.ndjson"
    store(*(f"r{n}" for n in range(6)))
    command("--output", str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    assert command("--output", str(path), "--resume")[0] == 0
    assert path.read_bytes() == whole


def test_without_a_file_the_lines_go_to_standard_output(command: Command, store: Store) -> None:
    store("a", "b")
    store("c", namespace="shop")
    code, out, _ = command("--namespace", "payments")
    assert code == 0
    *lines, end = out.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a", "b"]
    assert json.loads(end)["count"] == 2


def test_a_file_is_not_overwritten(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("kept")
    code, _, err = command("--output", str(path))
    assert (code, path.read_text()) == (2, "kept")
    assert "give --resume" in err
    assert "--resume needs --output" in command("--resume")[2]
    code, _, err = command("--output", str(tmp_path / "no" / "folder"))
    assert code == 1
    assert "No such file" in err


def test_a_failure_before_the_first_line_leaves_no_file(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "archive.ndjson"
    store("a")
    with monkeypatch.context() as wrong:
        wrong.setenv("DATASTORAGE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        assert command("--output", str(path))[0] == 1
        wrong.setenv("DATASTORAGE_DATABASE_URL", "mysql://nobody@127.0.0.1:1/none")
        assert command("--output", str(path))[0] == 2
    assert not path.exists()
    assert command("--output", str(path))[0] == 0
    assert checked(path) == ["a"]


def test_another_file_or_filter_is_refused(command: Command, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive.ndjson"
    store("a", "b")
    command("--output", str(path))
    whole = path.read_bytes()
    code, _, err = command("--output", str(path), "--resume", "--phase", "Completed")
    assert (code, path.read_bytes()) == (2, whole)
    assert "repeat the conditions of that export" in err
    for content in (b"hello\n", b'{"kind":"x"}\n', b"[]\n"):
        path.write_bytes(content)
        code, _, err = command("--output", str(path), "--resume")
        assert (code, path.read_bytes()) == (2, content)
        assert "not the file of an export" in err


def test_a_complete_file_that_was_changed_is_noticed(command: Command, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive.ndjson"
    store("a", "b")
    command("--output", str(path))
    changed = path.read_bytes().replace(b"restart-deployment", b"restart-deploymenT", 1)
    path.write_bytes(changed)
    code, _, err = command("--output", str(path), "--resume")
    assert (code, path.read_bytes()) == (1, changed)
    assert "missing or were changed" in err


def test_a_record_that_was_changed_fails_the_command(command: Command, store: Store, tmp_path: Path) -> None:
    store("a", "b")
    store.execute("UPDATE datastorage.audit_records SET content = content || ' ' WHERE name = 'a'")
    path = tmp_path / "archive.ndjson"
    code, _, err = command("--output", str(path))
    assert code == 1
    assert "1 records are not as they were stored" in err
    assert checked(path) == ["a", "b"]


async def in_chunks(data: bytes, size: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
    if error is not None:
        raise error


LINES = b'{"position":1,"resumeToken":"1"}\n{"position":2,"resumeToken":"2"}\n'
FIRST = LINES[: LINES.index(b"\n") + 1]
END = (
    b'{"kind":"ExportEnd","count":2,"linesHash":"sha256:%s","position":2,"resumeToken":"2"}\n'
    % hashlib.sha256(LINES).hexdigest().encode()
)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
async def test_the_bytes_may_come_in_any_pieces(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    file = ExportFile.create(path)
    await file.write(in_chunks(LINES + END, size))
    file.close()
    assert path.read_bytes() == LINES + END


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("data", "kept"),
    [(LINES, LINES), (LINES + END[:-1], LINES), (LINES[:-1], FIRST), (b"", b""), (LINES[:5], b"")],
)
@pytest.mark.parametrize("error", [None, TransientError("the server is away")])
async def test_a_stream_without_its_end_leaves_whole_lines(
    tmp_path: Path, size: int, data: bytes, kept: bytes, error: Exception | None
) -> None:
    path = tmp_path / "file"
    file = ExportFile.create(path)
    with pytest.raises(IncompleteExportError, match="broke off"):
        await file.write(in_chunks(data, size, error))
    file.close()
    assert path.read_bytes() == kept
    resumed = ExportFile.resume(path)
    rest = LINES[len(kept) :]
    count, digest = rest.count(b"\n"), hashlib.sha256(rest).hexdigest().encode()
    end = END.replace(b'"count":2', b'"count":%d' % count).replace(
        hashlib.sha256(LINES).hexdigest().encode(), digest
    )
    await resumed.write(in_chunks(rest + end, size))
    resumed.close()
    assert path.read_bytes() == LINES + END


async def test_a_stream_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    file = ExportFile.create(tmp_path / "file")
    with pytest.raises(NotAllowedError):
        await file.write(in_chunks(b"", 1, NotAllowedError("no right")))
    file.close()
    assert not (tmp_path / "file").exists()


async def test_an_end_that_fits_other_lines_is_refused(tmp_path: Path) -> None:
    file = ExportFile.create(tmp_path / "file")
    with pytest.raises(DataStorageError, match="missing or were changed"):
        await file.write(in_chunks(FIRST + END, 100))
    file.close()
    assert b"ExportEnd" not in (tmp_path / "file").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\n",
        b"a secret without a newline",
        b'{"a":1}',
        b'{"kind":"Config"}',
        b"{}\n{",
        b'{"resumeToken":{}}\n',
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidQueryError, match="not the file of an export"):
        ExportFile.resume(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


FORGED_ENDS = [
    b'{"kind":"ExportEnd",\n',
    b'{"kind":"ExportEnd","count":2}\n',
    END.replace(b'"position":2,', b""),
    END.replace(b'"position":2', b'"position":[]'),
    END.replace(b',"resumeToken":"2"', b""),
    END.replace(b'"resumeToken":"2"', b'"resumeToken":{}'),
    b'{"kind":"ExportEnd","count":' + b"[" * 100_000 + b"\n",
    b'{"kind":"ExportEnd","count":\xff}\n',
]


@pytest.mark.parametrize("end", FORGED_ENDS, ids=range(len(FORGED_ENDS)))
async def test_a_last_line_that_is_none_is_refused(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "file"
    file = ExportFile.create(path)
    with pytest.raises(DataStorageError, match="does not fit"):
        await file.write(in_chunks(LINES + end, 1000))
    file.close()
    assert path.read_bytes() == LINES
    path.write_bytes(LINES + end)
    with pytest.raises((DataStorageError, InvalidQueryError)):
        ExportFile.resume(path)
    assert path.read_bytes() == LINES + end


async def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (16 * 1024 * 1024)

    file = ExportFile.create(tmp_path / "file")
    with pytest.raises(DataStorageError, match="not an export"):
        await file.write(endless())
    file.close()


async def test_a_file_that_is_cut_at_any_byte_is_continued(tmp_path: Path) -> None:
    whole = LINES + END
    for cut in range(len(whole)):
        path = tmp_path / str(cut)
        path.write_bytes(whole[:cut])
        resumed = ExportFile.resume(path)
        kept = whole[:cut].count(b"\n")
        rest = b"".join(LINES.splitlines(keepends=True)[kept:])
        end = end_line(2 - kept, hashlib.sha256(rest).digest(), position=2, token="2")
        assert resumed.token == (str(kept) if kept else None)
        await resumed.write(in_chunks(rest + end, 9))
        resumed.close()
        assert path.read_bytes() == whole


def test_a_missing_file_is_begun(tmp_path: Path) -> None:
    file: Any = ExportFile.resume(tmp_path / "file")
    assert file.token is None
    file.close()
