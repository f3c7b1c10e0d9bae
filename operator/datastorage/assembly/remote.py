"""Builds the way of a command to a server, and the questions to its archive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.assembly.opened import OpenedArchive
from datastorage.client.access import Access, open_server
from datastorage.client.archive import RemoteArchive
from datastorage.client.export import RemoteExports
from datastorage.client.server import Server
from datastorage.settings import refuse_unknown_variables


@asynccontextmanager
async def open_remote(access: Access) -> AsyncIterator[Server]:
    """Open the way to a server for one command. Raises ConfigurationError."""
    refuse_unknown_variables()
    async with open_server(access) as server:
        yield server


@asynccontextmanager
async def open_remote_queries(access: Access) -> AsyncIterator[OpenedArchive]:
    """Open the archive of a server for the questions of one command. Raises ConfigurationError."""
    async with open_remote(access) as server:
        archive = RemoteArchive(server)
        yield OpenedArchive(archive, RemoteExports(server), archive.time)
