"""Builds the questions to the archive of a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datastorage.assembly.opened import OpenedArchive
from datastorage.client.access import Access, open_server
from datastorage.client.archive import RemoteArchive
from datastorage.settings import refuse_unknown_variables


@asynccontextmanager
async def open_remote_queries(access: Access) -> AsyncIterator[OpenedArchive]:
    """Open the archive of a server for the questions of one command. Raises ConfigurationError."""
    refuse_unknown_variables()
    async with open_server(access) as server:
        archive = RemoteArchive(server)
        yield OpenedArchive(archive, archive.time)
