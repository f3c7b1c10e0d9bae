"""Connecting while something else answers in PostgreSQL's place: a proxy or a load balancer without a server.

All of it passes, so it is waited for. Only a server that answers that it has no TLS is a wrong setting.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from datastorage.errors import ConfigurationError, DataStorageError, TransientError
from datastorage.records.vector import EmbeddingModel
from datastorage.storage.connection.connecting import connecting
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE, VECTORS
from datastorage.storage.vectors import VectorTables
from harness.controlplane.certificates import Certificates, ensure_certificates
from harness.postgres import TestDatabase
from tests.support.ping import trouble

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_CLOSED = "the connection was closed before it was ready"
_RESET = "Connection reset by peer"
_FOREIGN = "something other than PostgreSQL answers there"
_HTTP = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
# A login that succeeds: the password is not asked for, the server has a version, and is ready for statements.
_VERSION = b"server_version\x0018.0\x00"
_LOGGED_IN = b"".join(
    (
        b"R" + struct.pack("!ii", 8, 0),
        b"S" + struct.pack("!i", 4 + len(_VERSION)) + _VERSION,
        b"K" + struct.pack("!iii", 12, 7, 7),
        b"Z" + struct.pack("!i", 5) + b"I",
    )
)
_PLAIN = ("", "sslmode=prefer", "sslmode=allow", "sslmode=disable")
_TLS = ("sslmode=require", "sslmode=verify-full&sslrootcert={ca}", "sslrootcert=system")
_DIRECT = "sslmode=require&sslnegotiation=direct"


@dataclass
class _Door:
    """Accepts connections as a proxy does whose server is away; forwards them once it has a server."""

    reads: bool = True
    """Whether the first message is read before the connection is closed."""
    to_tls: bytes = b""
    """The answer to a client that asks for TLS."""
    to_login: bytes = b""
    """The answer to a client that logs in without TLS."""
    resets: bool = False
    """Whether the connection is reset in the end, and not closed."""
    target: str = ""
    """The host and port of the server."""
    port: int = 0
    logins: list[bytes] = field(default_factory=list)

    def url(self, query: str = "") -> str:
        return f"postgresql://me:hunter2@127.0.0.1:{self.port}/name?{query}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target:
            host, _, port = self.target.partition(":")
            there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(_hand_on(reader, there[1]), _hand_on(there[0], writer))
            return
        with contextlib.suppress(OSError):
            message = await reader.read(1024) if self.reads else b""
            if message == _SSL_REQUEST:
                writer.write(self.to_tls)
                message = await reader.read(1024) if self.to_tls == b"N" else b""
            if message:
                self.logins.append(message)
                writer.write(self.to_login)
            await writer.drain()
        if self.resets:
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


async def _hand_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def _opened(door: _Door) -> AsyncIterator[_Door]:
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    try:
        yield door
    finally:
        server.close()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    ensure_certificates(made, service_ip="127.0.0.1")
    return made.ca


def _is_away(error: DataStorageError | None, door: _Door, *reasons: str) -> bool:
    """Return whether an error is one to wait for, and says one of the reasons."""
    texts = [f"PostgreSQL at 127.0.0.1:{door.port} can't be reached: {reason}" for reason in reasons]
    return type(error) is TransientError and str(error).startswith(tuple(texts))


@pytest.mark.parametrize("query", [*_PLAIN, *_TLS, _DIRECT])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("reads", [False, True])
async def test_a_connection_that_is_closed_at_once_is_waited_for(
    ca: Path, query: str, *, reads: bool, resets: bool
) -> None:
    async with _opened(_Door(reads=reads, resets=resets)) as door:
        # The kernel decides which end of the connection notices what first.
        assert _is_away(await trouble(door.url(query.format(ca=ca))), door, _CLOSED, _RESET)


@pytest.mark.parametrize("query", _TLS)
async def test_only_a_server_that_says_it_has_no_tls_is_a_wrong_setting(ca: Path, query: str) -> None:
    async with _opened(_Door(to_tls=b"N")) as door:
        error = await trouble(door.url(query.format(ca=ca)))
    assert isinstance(error, ConfigurationError)
    assert "has no TLS, and sslmode in DATASTORAGE_DATABASE_URL requires it" in str(error)
    assert not door.logins, "the login went out without TLS"


async def test_the_mode_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    async with _opened(_Door(to_tls=b"N")) as door:
        assert isinstance(await trouble(door.url()), ConfigurationError)


@pytest.mark.parametrize("query", ["", "sslmode=prefer", "sslmode=allow"])
async def test_a_server_without_tls_that_ends_is_waited_for(query: str) -> None:
    async with _opened(_Door(to_tls=b"N")) as door:
        assert _is_away(await trouble(door.url(query)), door, _CLOSED)


@pytest.mark.parametrize("query", [*_TLS, "", "sslmode=prefer"])
async def test_a_proxy_that_answers_itself_is_waited_for(ca: Path, query: str) -> None:
    async with _opened(_Door(to_tls=_HTTP, to_login=_HTTP)) as door:
        assert _is_away(await trouble(door.url(query.format(ca=ca))), door, _FOREIGN)


@pytest.mark.parametrize("query", ["sslmode=allow", "sslmode=disable"])
async def test_a_proxy_that_answers_a_login_and_closes_is_waited_for(query: str) -> None:
    async with _opened(_Door(to_tls=_HTTP, to_login=_HTTP)) as door:
        assert _is_away(await trouble(door.url(query)), door, _CLOSED)


@pytest.mark.parametrize("query", _TLS)
async def test_a_server_that_ends_before_its_certificate_is_waited_for(ca: Path, query: str) -> None:
    async with _opened(_Door(to_tls=b"S")) as door:
        assert _is_away(await trouble(door.url(query.format(ca=ca))), door, _CLOSED, _RESET)


async def test_a_server_that_ends_after_the_login_is_waited_for() -> None:
    async with _opened(_Door(to_login=_LOGGED_IN)) as door:
        assert _is_away(await trouble(door.url("sslmode=disable")), door, _CLOSED)


def test_a_connection_that_the_driver_finds_closed_is_waited_for() -> None:
    """Whether the driver notices the end before or after its next statement is a matter of moments."""
    with pytest.raises(TransientError, match=f"can't be reached: {_CLOSED}"), connecting("PostgreSQL", "URL"):
        raise asyncpg.InterfaceError("connection is closed")


async def test_a_wrong_password_is_not_taken_for_missing_tls(common: TestDatabase) -> None:
    """With sslmode=allow, the driver asks for TLS after the refusal, and the server has none."""
    user, _, rest = common.service_url.rpartition("@")
    error = await trouble(f"{user.rpartition(':')[0]}:wrong@{rest}?sslmode=allow")
    assert isinstance(error, TransientError)
    assert "check user and password in DATASTORAGE_DATABASE_URL" in str(error)


async def test_the_server_of_the_vectors_is_waited_for() -> None:
    async with _opened(_Door()) as door:
        database = Database(door.url(), pool_size=1, chain=VECTORS)
        with pytest.raises(TransientError, match=f"can't be reached: {_CLOSED}"):
            await VectorTables(database, EmbeddingModel("p", "n", 3)).probe()
        await database.close()


@pytest.mark.parametrize("query", ["", "sslmode=require"])
async def test_another_host_is_tried(common: TestDatabase, query: str) -> None:
    async with _opened(_Door()) as door:
        user, _, rest = common.service_url.rpartition("@")
        address, _, name = rest.partition("/")
        error = await trouble(f"{user}@127.0.0.1:{door.port},{address}/{name}?{query}")
    if not query:
        assert error is None
    else:  # the first may come back
        assert isinstance(error, TransientError)
        assert _CLOSED in str(error)
        assert f"{address} has no TLS" in str(error)


@pytest.mark.parametrize("answer", [b"", b"N", _HTTP])
async def test_migrating_tells_them_apart_too(answer: bytes) -> None:
    async with _opened(_Door(to_tls=answer)) as door:
        expected = ConfigurationError if answer == b"N" else TransientError
        with pytest.raises(expected) as caught:
            await asyncio.to_thread(migrate, door.url("sslmode=require"))
        assert type(caught.value) is expected
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "door",
    [_Door(reads=False), _Door(), _Door(to_tls=_HTTP, to_login=_HTTP)],
    ids=["accepts", "reads", "answers"],
)
async def test_migrate_waits_until_a_server_is_behind_the_proxy(
    unmigrated: TestDatabase, tmp_path: Path, door: _Door
) -> None:
    user, _, rest = unmigrated.owner_url.rpartition("@")
    address, _, name = rest.partition("/")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DATASTORAGE_")}
    async with _opened(door):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "datastorage", "migrate", "--wait", "200",
            env=environment | {
                "DATASTORAGE_SECRETS_DIR": str(tmp_path),
                "DATASTORAGE_EMBEDDING_PROVIDER": "none",
                "DATASTORAGE_DATABASE_OWNER_URL": f"{user}@127.0.0.1:{door.port}/{name}",
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            first = await process.stderr.readline()
            assert first.startswith(b"Waiting for up to "), first
            assert b"can't be reached" in first
            door.target = address
            printed, errors = await process.communicate()
            assert process.returncode == 0, errors
            assert printed.decode().strip() == f"archive: migrated from nothing to version {ARCHIVE.version}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
