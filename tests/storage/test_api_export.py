"""GET /export: complete or visibly broken off, bounded, and within the rights of the caller."""

import asyncio
import gzip
import hashlib
import http.client
import json
import logging
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
import zstandard
from starlette.datastructures import Headers

from datastorage.api.export import ExportLimits
from datastorage.api.guard import OpenGuard
from datastorage.errors import ClusterUnavailableError, DataStorageError, NotAllowedError
from datastorage.records.caller import Caller
from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import Scope
from datastorage.storage.export import ExportPace
from datastorage.storage.write import Archive
from harness.apidocument import check_documented
from harness.objects import action_trace, audit_record, record_of
from harness.polling import eventually
from harness.postgres import TestDatabase
from tests.support.apiserved import Served, exporting
from tests.support.counted import changes, series

SMALL = ExportPace(page_rows=10)
LARGE_TEXT = "x" * 20_000


@pytest_asyncio.fixture
async def api(archive: Archive, database: Database) -> AsyncIterator[Served]:
    await archive.write([record_of(audit_record(name=f"r{n}", namespace=f"ns{n % 2}")) for n in range(40)])
    await archive.write([record_of(action_trace(name="trace", namespace="ns0"))])
    async with exporting(database, pace=SMALL) as made:
        yield made


async def export(api: Served, query: str = "", **headers: str) -> tuple[list[bytes], Any]:
    answer = await api.send("GET", f"/export{query}", headers={"Accept-Encoding": "identity", **headers})
    assert answer.status == 200, answer.content
    check_documented("GET", "/api/v1/export", answer)
    *lines, end = answer.content.splitlines(keepends=True)
    return lines, json.loads(end)


async def test_the_stream_ends_with_count_and_hash(api: Served) -> None:
    lines, end = await export(api)
    assert (len(lines), end["kind"], end["count"]) == (41, "ExportEnd", 41)
    assert end["linesHash"] == f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"
    assert json.loads(lines[-1])["kind"] == "ActionTrace"


async def test_conditions_choose_records(api: Served) -> None:
    for query, count in (
        ("?namespace=ns1", 20), ("?type=actiontraces", 1), ("?type=workflow", 0), ("?phase=completed", 40),
        ("?until=2026-03-05T10:20:30Z", 0), ("?since=2026-03-05T10:20:30Z&type=remediation", 40),
    ):  # fmt: skip
        assert (await export(api, query))[1]["count"] == count, query


async def test_a_token_goes_on(api: Served) -> None:
    lines, end = await export(api, "?namespace=ns1")
    token = json.loads(lines[6])["resumeToken"]
    rest, again = await export(api, f"?namespace=ns1&resumeToken={token}")
    assert (rest, again["count"], again["resumeToken"]) == (lines[7:], 13, end["resumeToken"])
    assert (await export(api, f"?namespace=ns1&resumeToken={end['resumeToken']}"))[0] == []


@pytest.mark.parametrize("query", ["?resumeToken=x", "?namespace=ns0&resumeToken={}", "?pageSize=5",
                                   "?resumeToken=", "?phase=Nope", "?since=yesterday"])  # fmt: skip
async def test_a_wrong_question_is_a_problem(api: Served, query: str) -> None:
    _, end = await export(api)
    answer = await api.send("GET", f"/export{query.format(end['resumeToken'])}")
    assert answer.status == 400
    check_documented("GET", "/api/v1/export", answer)


def unpack(data: bytes, encoding: str | None) -> bytes:
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if encoding == "gzip" else data


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"), ("zstd, gzip", "zstd"), ("gzip, zstd;q=0.1", "zstd"), ("zstd;q=0, gzip", "gzip"),
        ("*", "zstd"), ("br", None), ("identity", None), ("gzip;q=0", None), ("gzip;q=x", None), ("", None),
    ],
)  # fmt: skip
async def test_the_stream_is_packed_as_the_client_accepts(
    api: Served, accepted: str, encoding: str | None
) -> None:
    plain = b"".join((await export(api))[0])
    answer = await api.send("GET", "/export", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert "accept-encoding" in answer.headers["vary"].lower()
    unpacked = unpack(answer.content, encoding)
    assert unpacked.startswith(plain)
    assert json.loads(unpacked.removeprefix(plain))["count"] == 41


async def test_an_export_is_logged(api: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await export(api, "?namespace=ns1&type=remediation")
    # The client has the last byte a moment earlier.
    await eventually(lambda: ended(caplog) != [])
    [entry] = [record for record in caplog.records if record.getMessage() == "Exported records"]
    values = vars(entry)
    assert (values["user"], values["verb"], values["count"]) == ("robot", "export", 20)
    assert values["filter"] == {"namespace": "ns1", "type": "remediation"}
    assert values["outcome"] == "complete"


def exports(outcome: str) -> float:
    """Return how many exports have ended like this."""
    return series("datastorage_export_total").get((outcome,), 0.0)


async def test_exports_are_counted(api: Served) -> None:
    before = exports("complete")
    with (
        changes("datastorage_export_records_total") as records,
        changes("datastorage_export_bytes_total") as size,
    ):
        answer = await api.send("GET", "/export?namespace=ns1", headers={"Accept-Encoding": "gzip"})
        lines = gzip.decompress(answer.content).splitlines(keepends=True)[:-1]
        await eventually(lambda: exports("complete") == before + 1)  # the client has the last byte earlier
    assert records == {(): 20}
    assert size == {(): sum(map(len, lines))}


class Rights(OpenGuard):
    """Knows a caller's scope for each verb; a verb without one is not allowed."""

    def __init__(self, **scopes: Scope) -> None:
        self._scopes: dict[str, Scope | DataStorageError] = {**scopes}

    def change(self, **scopes: Scope | DataStorageError) -> None:
        """Answer otherwise from now on; with an error, raise it."""
        self._scopes |= scopes

    async def caller_of(self, headers: Headers) -> Caller:
        del headers
        return Caller("robot")

    async def scope_of(self, caller: Caller, verb: str, namespace: str | None) -> Scope:
        found = self._scopes.get(verb)
        if isinstance(found, DataStorageError):
            raise found
        if found is None or found.namespace not in {None, namespace}:
            raise NotAllowedError(f"{caller.username} has no right to {verb} records")
        return Scope(namespace, found.since)


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(
    ("rights", "query", "missing"),
    [
        ({"list": Scope()}, "", "export"),
        ({"export": Scope()}, "", "list"),
        ({"list": Scope(), "export": Scope("ns1")}, "", "export"),
        ({"list": Scope("ns1"), "export": Scope()}, "?namespace=ns0", "list"),
        ({}, "", "list"),
    ],
)
async def test_both_rights_are_needed(
    database: Database, rights: dict[str, Scope], query: str, missing: str
) -> None:
    async with exporting(database, guard=Rights(**rights)) as limited:
        answer = await limited.send("GET", f"/export{query}")
    assert answer.status == 403
    assert f"no right to {missing}" in answer.json["detail"]
    check_documented("GET", "/api/v1/export", answer)


@pytest.mark.usefixtures("api")
async def test_a_right_in_a_namespace_covers_the_rows_since_its_creation(
    archive: Archive, database: Database
) -> None:
    await archive.write(
        [record_of(audit_record(name="new", namespace="ns1", creationTimestamp="2026-04-01T00:00:00Z"))]
    )
    since = datetime.fromisoformat("2026-03-31T00:00:00Z")
    guard = Rights(list=Scope("ns1"), export=Scope("ns1", since))
    async with exporting(database, guard=guard) as limited:
        lines, end = await export(limited, "?namespace=ns1")
        everything, _ = await export(limited, f"?namespace=ns1&resumeToken={end['resumeToken']}")
    assert [json.loads(line)["name"] for line in lines] == ["new"]
    assert everything == []
    # A token from wider rights does not serve.
    async with exporting(database) as wide:
        _, end = await export(wide, "?namespace=ns1")
    async with exporting(database, guard=guard) as limited:
        answer = await limited.send("GET", f"/export?namespace=ns1&resumeToken={end['resumeToken']}")
    assert answer.status == 400


@pytest_asyncio.fixture
async def large(archive: Archive) -> None:
    """Far more than the buffers of a connection hold."""
    spec = {**audit_record()["spec"], "message": LARGE_TEXT}
    for start in range(0, 1000, 100):
        await archive.write([record_of(audit_record(spec, name=f"r{start + n}")) for n in range(100)])


def ended(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return how the exports ended, from the log."""
    return [
        vars(record)["outcome"]
        for record in caplog.records
        if record.getMessage() in {"Exported records", "An export was broken off"}
    ]


class Slow:
    """A client that has begun an export, and reads when it likes."""

    def __init__(self, api: Served) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", int(api.url.rpartition(":")[2]), timeout=30
        )
        self._connection.request(
            "GET", "/api/v1/export", headers={"Authorization": "Bearer robot", "Accept-Encoding": "identity"}
        )
        self.response = self._connection.getresponse()

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@pytest.mark.usefixtures("large")
async def test_few_exports_are_served_at_once(database: Database) -> None:
    async with exporting(database, limits=ExportLimits(at_once=1)) as api:
        slow = await asyncio.to_thread(Slow, api)
        answer = await api.send("GET", "/export")
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert series("datastorage_limits_hit_total")["exports",] >= 1
        assert int(answer.headers["retry-after"]) > 0
        check_documented("GET", "/api/v1/export", answer)
        slow.close()

        async def served_again() -> bool:
            return (await api.send("GET", "/export")).status == 200

        await eventually(served_again)


@pytest.mark.usefixtures("large")
async def test_a_client_that_is_gone_ends_its_export(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with changes("datastorage_export_total") as outcomes:
        async with exporting(database) as api:
            (await asyncio.to_thread(Slow, api)).close()
            await eventually(lambda: ended(caplog) != [])
    assert ended(caplog) == ["broken off"]
    assert outcomes == {("abandoned",): 1}


@pytest.mark.usefixtures("large")
async def test_a_slow_client_holds_no_transaction_and_is_cut_off(
    database: Database, owner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with exporting(database, limits=ExportLimits(piece_seconds=0.5)) as api:
        slow = await asyncio.to_thread(Slow, api)

        async def no_transaction() -> bool:
            return not await owner.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE usename <> current_user "
                "AND datname = current_database() AND xact_start IS NOT NULL"
            )

        await eventually(no_transaction)
        await eventually(lambda: ended(caplog) != [])
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            await asyncio.to_thread(slow.response.read)
    assert ended(caplog) == ["broken off"]


@pytest.mark.usefixtures("large")
async def test_a_failure_on_the_way_breaks_the_connection(
    cloned: TestDatabase, owner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(cloned.service_url, pool_size=2)
    async with exporting(database) as api:
        slow = await asyncio.to_thread(Slow, api)
        await owner.execute("REVOKE SELECT ON datastorage.audit_records FROM datastorage_service")
        with pytest.raises(http.client.IncompleteRead) as broken:
            await asyncio.to_thread(slow.response.read)
        assert b"ExportEnd" not in broken.value.partial
        assert broken.value.partial.startswith(b'{"position":')
        answer = await api.send("GET", "/export")
        assert answer.status == 503
    assert "An export was broken off" in [record.getMessage() for record in caplog.records]
    await database.close()


async def rights_change(
    database: Database, caplog: pytest.LogCaptureFixture, **changed: Scope | DataStorageError
) -> str:
    """Change what the guard answers in the middle of an export; return the reason for its end."""
    caplog.set_level(logging.INFO)
    before = exports("broken_off")
    guard = Rights(list=Scope(), export=Scope())
    async with exporting(database, guard=guard) as api:
        slow = await asyncio.to_thread(Slow, api)
        guard.change(**changed)
        with pytest.raises(http.client.IncompleteRead) as broken:
            await asyncio.to_thread(slow.response.read)
        assert b"ExportEnd" not in broken.value.partial
        await eventually(lambda: ended(caplog) == ["broken off"])
        slow.close()
    assert exports("broken_off") == before + 1
    [entry] = [record for record in caplog.records if record.getMessage() == "An export was broken off"]
    return str(vars(entry)["error"])


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("verb", ["list", "export"])
async def test_a_right_that_is_taken_away_ends_an_export(
    database: Database, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    why = await rights_change(database, caplog, **{verb: NotAllowedError(f"no right to {verb}")})
    assert why == f"no right to {verb}"


@pytest.mark.usefixtures("large")
async def test_an_export_ends_while_nobody_says_whether_it_is_allowed(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    away = ClusterUnavailableError("the API server is away")
    assert await rights_change(database, caplog, export=away) == str(away)


@pytest.mark.usefixtures("large")
async def test_a_namespace_that_is_made_again_ends_an_export(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    younger = Scope(None, datetime.fromisoformat("2026-03-31T00:00:00Z"))
    assert "have changed meanwhile" in await rights_change(database, caplog, list=younger)


@pytest.mark.usefixtures("large")
async def test_one_identity_does_not_take_all_exports(database: Database) -> None:
    async with exporting(database, limits=ExportLimits(at_once=2)) as api:
        slow = await asyncio.to_thread(Slow, api)
        answer = await api.send("GET", "/export")
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert "one identity" in answer.json["detail"]
        assert (await api.send("GET", "/export", token="flood")).status == 200
        slow.close()


async def test_an_identity_exports_again_at_once(api: Served) -> None:
    for _ in range(5):
        await export(api)


@pytest.mark.usefixtures("large")
async def test_a_stop_breaks_off_an_export(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with exporting(database) as api:
        slow = await asyncio.to_thread(Slow, api)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        await asyncio.to_thread(slow.response.read)
    await eventually(lambda: ended(caplog) != [])
    assert ended(caplog) == ["broken off"]


@pytest.mark.parametrize(
    "name", ["namespace", "correlationID", "phase", "targetName", "since", "type", "resumeToken"]
)
async def test_no_value_of_a_parameter_breaks_an_export(api: Served, name: str) -> None:
    for value in (
        "",
        "%00",
        "%ED%A0%80",
        "-1",
        "1e400",
        "%27%3B%20DROP%20TABLE%20x--",
        "x" * 513,
        "WyJhIiwxXQ==",
    ):
        answer = await api.send("GET", f"/export?{name}={value}")
        assert answer.status in {200, 400}, answer.content
        assert answer.status == 400 or b"ExportEnd" in answer.content
