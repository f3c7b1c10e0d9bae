"""Builds the way of a command to a server, and the questions to its archive."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.assembly.opened import OpenedArchive
from datastorage.client.access import Access
from datastorage.client.archive import RemoteArchive
from datastorage.client.export import RemoteExports
from datastorage.client.opening import open_server
from datastorage.client.server import Server
from datastorage.variables import CLIENT_VARIABLES, PREFIX


@asynccontextmanager
async def open_remote(access: Access) -> AsyncIterator[Server]:
    """Open the way to a server for one command. Raises ConfigurationError."""
    _refuse_unknown_variables()
    async with open_server(access) as server:
        yield server


@asynccontextmanager
async def open_remote_queries(access: Access) -> AsyncIterator[OpenedArchive]:
    """Open the archive of a server for the questions of one command. Raises ConfigurationError."""
    async with open_remote(access) as server:
        archive = RemoteArchive(server)
        yield OpenedArchive(archive, RemoteExports(server), archive.time)


def _refuse_unknown_variables() -> None:
    if all(name in CLIENT_VARIABLES for name in os.environ if name.startswith(PREFIX)):
        return
    # The settings take long to load, and a way to a server has none of them.
    from datastorage.settings import refuse_unknown_variables  # noqa: PLC0415  # as above

    refuse_unknown_variables()
