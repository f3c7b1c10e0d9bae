"""Opens a connection to the first suitable server of a URL."""

import asyncpg

from datastorage.errors import ConfigurationError, DataStorageError, TransientError
from datastorage.storage.connection.connecting import connecting
from datastorage.storage.connection.hosts import attempts, refuse_read_only
from datastorage.storage.connection.sessions import Connector, Session
from datastorage.storage.connection.urls import ServerUrl, address_in, parse_url
from datastorage.storage.schema import Chain


class Servers:
    """The servers in the URLs of one setting, and the one of them that served last."""

    def __init__(self, chain: Chain, connector: Connector, *, writable: bool) -> None:
        """``chain`` has the setting's name. With ``writable``, a read-only server is not suitable."""
        self._chain = chain
        self._connector = connector
        self._writable = writable
        self._last_served = ""

    @property
    def have_served(self) -> bool:
        """Whether any of the servers has ever accepted a connection of this program."""
        return bool(self._last_served)

    def name_of(self, url: str) -> str:
        """Return the name of a URL's server in messages: its kind and address, never a password."""
        return f"{self._chain.server} at {address_in(url)}"

    async def open(self, url: str) -> Session:
        """Open a connection.

        Raises TransientError if at least one of the servers may come back, ConfigurationError if the URL has
        to be corrected for all of them. Either error says what is wrong with each server.
        """
        # Among servers of one kind, the one that served last comes first: if the others are silent, each
        # takes the whole time of an attempt.
        in_order = sorted(
            attempts(parse_url(url, self._chain.setting), writable=self._writable),
            key=lambda attempt: (attempt[1] == "any", attempt[0].driver_url != self._last_served),
        )
        failures: list[DataStorageError] = []
        for server_url, kind in in_order:
            try:
                session = await self._open_one(server_url, kind)
            except asyncpg.TargetServerAttributeNotMatched:
                name = self.name_of(server_url.driver_url)
                failures.append(TransientError(f"{name} is not what its target_session_attrs asks for"))
            except (TransientError, ConfigurationError) as error:
                failures.append(error)
            else:
                self._last_served = server_url.driver_url
                return session
        if len(failures) == 1:
            raise failures[0]
        hopeless = all(isinstance(error, ConfigurationError) for error in failures)
        raise (ConfigurationError if hopeless else TransientError)("; ".join(map(str, failures)))

    async def _open_one(self, url: ServerUrl, kind: str | None) -> Session:
        name = self.name_of(url.driver_url)
        with connecting(name, self._chain.setting):
            session = await self._connector.connect(url, name, kind)
            try:
                if self._writable:
                    await refuse_read_only(session, name, timeout_seconds=url.connect_seconds)
            except BaseException:
                session.terminate()
                raise
            return session
