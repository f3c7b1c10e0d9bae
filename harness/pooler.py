"""A pooler before PostgreSQL, like PgBouncer in transaction mode: each transaction gets the next session.

PgBouncer reuses the session that was used last, so faults show only under load. This one uses all sessions in
turn. Like PgBouncer before 1.21, it does not support prepared statements and accepts few parameters.
"""

import asyncio
import contextlib
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_SSL_REQUEST: Final = 80877103
_TAKEN: Final = frozenset(
    {"user", "database", "client_encoding", "datestyle", "timezone", "standard_conforming_strings",
    "application_name"}
)  # fmt: skip
_READY_IDLE: Final = b"Z\0\0\0\5I"


@dataclass
class Pooler:
    """A running pooler, and its counts."""

    url: str
    sessions: "asyncio.Queue[_Session]" = field(default_factory=asyncio.Queue)
    transactions: int = 0


@dataclass(frozen=True)
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def pooler(service_url: str, trusted_url: str, *, size: int = 3) -> AsyncIterator[Pooler]:
    """Run a pooler with ``size`` sessions of the role in ``service_url``.

    ``trusted_url`` is that of a role that needs no password, and may switch to the other role.
    """
    parts = urlsplit(service_url)
    running = Pooler("")
    for _ in range(size):
        running.sessions.put_nowait(await _log_in(trusted_url, parts.username or ""))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # Python 3.11's streams log a connection whose task was cancelled.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await _serve(running, reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
    running.url = urlunsplit(parts._replace(netloc=address))
    try:
        yield running
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not running.sessions.empty():
            running.sessions.get_nowait().writer.close()


async def _log_in(url: str, role: str) -> _Session:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    words = ("user", parts.username or "", "database", parts.path[1:], "client_encoding", "UTF8")
    body = struct.pack("!i", 196608) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
    writer.write(struct.pack("!i", len(body) + 4) + body)
    await _until_ready(reader, None)
    statement = f'SET SESSION AUTHORIZATION "{role}"'.encode() + b"\0"
    writer.write(b"Q" + struct.pack("!i", len(statement) + 4) + statement)
    await _until_ready(reader, None)
    return _Session(reader, writer)


async def _serve(running: Pooler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    refused = await _greeting(reader, writer)
    if refused is not None:
        writer.write(_error(f"unsupported startup parameter: {refused}"))
        await writer.drain()
        return
    session: _Session | None = None
    try:
        while True:
            kind = await reader.readexactly(1)
            length = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack("!i", length)[0] - 4)
            if kind == b"X":
                return
            if session is None:
                session = await running.sessions.get()
            session.writer.write(kind + length + body)
            if kind == b"H":  # the driver asks for the answers so far, and its transaction continues
                await _until_described(session.reader, writer)
            elif kind in {b"S", b"Q"} and await _until_ready(session.reader, writer) == _READY_IDLE:
                running.transactions += 1
                running.sessions.put_nowait(session)
                session = None
    finally:
        if session is not None:  # PgBouncer closes a session that a client leaves during a transaction
            session.writer.close()


async def _greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
    """Answer the first message as a server does; return the name of an unsupported parameter."""
    while True:
        length, code = struct.unpack("!ii", await reader.readexactly(8))
        body = await reader.readexactly(length - 8)
        if code != _SSL_REQUEST:
            break
        writer.write(b"N")
    for name in body.decode().split("\0")[:-2:2]:
        if name.lower() not in _TAKEN:
            return name
    parameters = (("server_version", "18.0"), ("client_encoding", "UTF8"), ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"), ("integer_datetimes", "on"))  # fmt: skip
    writer.write(b"R" + struct.pack("!ii", 8, 0))
    for name, value in parameters:
        text = f"{name}\0{value}\0".encode()
        writer.write(b"S" + struct.pack("!i", len(text) + 4) + text)
    writer.write(b"K" + struct.pack("!i", 12) + secrets.token_bytes(8) + _READY_IDLE)
    return None


async def _until_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> bytes:
    while True:
        message = await _pass_on(reader, writer)
        if message[:1] == b"Z":
            return message


async def _until_described(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on the answers to Parse and Describe, or the error that ends both."""
    while (await _pass_on(reader, writer))[:1] not in {b"T", b"n", b"E"}:
        pass


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> bytes:
    head = await reader.readexactly(5)
    message = head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
    if writer is not None:
        writer.write(message)
    return message


def _error(text: str) -> bytes:
    body = f"SFATAL\0C08P01\0M{text}\0\0".encode()
    return b"E" + struct.pack("!i", len(body) + 4) + body
