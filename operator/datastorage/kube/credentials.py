"""Keeps the connection settings of requests up to date: address, TLS and credentials.

Files are read again when they change, and a plugin is run again when its credentials expire. Both also happen
when the API server has refused the credentials.
"""

import asyncio
import logging
import math
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.files import fingerprint
from datastorage.kube.endpoint import ClientCertificate, Endpoint
from datastorage.kube.execplugin import PluginCredential, PluginLimits, run_plugin
from datastorage.resilience.backoff import Backoff

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CredentialsPace:
    """How often files are checked and a plugin is run."""

    look_seconds: float = 10.0
    """Between two checks of the files. The kubelet writes a new token when a fifth of its lifetime is left,
    which is minutes at least."""
    expiry_margin_seconds: float = 10.0
    """Credentials are renewed this long before they expire, so that requests under way arrive in time."""
    first_pause_seconds: float = 1.0
    """Between two runs of a plugin. The pause grows while the plugin fails or its credentials are refused."""
    max_pause_seconds: float = 30.0
    reconnect_seconds: float = 5.0
    """The least time between renewals of the connections because of trouble with the API server."""
    plugin: PluginLimits = field(default_factory=PluginLimits)


@dataclass(frozen=True)
class ConnectionSettings:
    """Everything that a request needs to reach the API server. A change results in a new object."""

    server: str
    proxy: str | None = field(repr=False)
    server_name: str | None
    tls: ssl.SSLContext | None
    """A new context also ends the use of older connections: each is used only with the context it was opened
    with."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)


class Credentials:
    """Provides the current connection settings, and renews them when the API server refuses them."""

    def __init__(
        self, load: Callable[[], Endpoint], pace: CredentialsPace, clock: Callable[[], float]
    ) -> None:
        """``load`` reads everything again, or raises ConfigurationError. ``clock`` returns seconds."""
        self._load = load
        self._pace = pace
        self._clock = clock
        self._lock = asyncio.Lock()
        self._endpoint: Endpoint | None = None
        self._issued: PluginCredential | None = None
        self._connection: ConnectionSettings | None = None
        self._files: tuple[object, ...] | None = None
        self._complaint: str | None = None
        self._looked = self._reconnected = self._ran = -math.inf
        self._reconnect = False
        self._backoff = Backoff(pace.first_pause_seconds, pace.max_pause_seconds)
        self._pause_seconds = pace.first_pause_seconds
        self._failure: ClusterUnavailableError | None = None

    async def load(self) -> None:
        """Read everything for the first time. Raises ConfigurationError."""
        async with self._lock:
            if self._endpoint is None:
                await self._look(even_if_unchanged=True)

    async def current(self) -> ConnectionSettings:
        """Return the settings as they are now.

        Raises ClusterUnavailableError while there are no credentials from a plugin.
        """
        if self._connection is None or self._is_due():
            async with self._lock:
                if self._connection is None or self._is_due():
                    await self._refresh()
        assert self._connection is not None
        return self._connection

    async def renewed(self, refused: ConnectionSettings) -> ConnectionSettings | None:
        """Return other settings than ``refused``, which the API server did not accept, or None.

        Raises ClusterUnavailableError when the plugin fails.
        """
        async with self._lock:
            if self._connection is refused:
                before = self._identity()
                await self._look(even_if_unchanged=True)
                if self._endpoint is not None and self._endpoint.plugin is not None:
                    await self._run_plugin(refused=True)
                if self._identity() == before:
                    return None
                await self._build()
            return self._connection

    def accepted(self) -> None:
        """Note that the API server accepts the credentials: the next refusal begins with a short pause."""
        self._backoff.reset()
        self._pause_seconds = self._pace.first_pause_seconds

    def reconnect(self) -> None:
        """Make later requests open new connections: another server behind the address may work."""
        if self._clock() - self._reconnected > self._pace.reconnect_seconds:
            self._reconnected = self._clock()
            self._reconnect = True

    def _is_due(self) -> bool:
        return self._reconnect or self._has_expired() or self._must_look()

    def _must_look(self) -> bool:
        return self._clock() - self._looked > self._pace.look_seconds

    def _has_expired(self) -> bool:
        issued = self._issued
        return (
            issued is not None
            and issued.expires is not None
            and issued.expires - time.time() < self._pace.expiry_margin_seconds
            and not self._is_pausing()
        )

    def _is_pausing(self) -> bool:
        return self._clock() - self._ran < self._pause_seconds

    async def _refresh(self) -> None:
        before = self._identity()
        if self._endpoint is None or self._must_look():
            await self._look(even_if_unchanged=False)
        assert self._endpoint is not None
        if self._endpoint.plugin is None:
            self._issued = None
        elif self._issued is None or self._has_expired():
            await self._run_plugin(refused=False)
        if self._connection is None or self._reconnect or self._identity() != before:
            await self._build()

    def _identity(self) -> tuple[Endpoint | None, PluginCredential | None]:
        return self._endpoint, self._issued

    async def _look(self, *, even_if_unchanged: bool) -> None:
        """Read the files if they have changed. If that fails, the previous configuration stays in use."""
        self._looked = self._clock()
        before = self._endpoint
        try:
            await asyncio.to_thread(self._read_files, even_if_unchanged=even_if_unchanged)
        except ConfigurationError as error:
            if before is None:
                raise
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning(
                    "The configuration for the API server can't be read again; the previous one stays in "
                    "use: %s",
                    error,
                )
            return
        self._complaint = None
        if before is not None and self._endpoint is not before:
            if self._endpoint is None or self._endpoint.plugin != before.plugin:
                self._issued, self._ran = None, -math.inf
            _log.info("The configuration for the API server has changed and was read again")

    def _read_files(self, *, even_if_unchanged: bool) -> None:
        """Read the files. Runs in a thread, since a file system may be slow."""
        known = self._endpoint.files if self._endpoint is not None else ()
        # The fingerprints are taken before the reading, so that the next check finds changes made during it.
        files = tuple(map(fingerprint, known))
        if self._files == files and not even_if_unchanged:
            return
        self._files = None  # a failed reading is repeated, and new files are checked once more
        read = self._load()
        _context(read, None)  # unusable certificates must not replace usable ones
        if read != self._endpoint:
            self._endpoint = read
        if read.files == known:
            self._files = files

    async def _run_plugin(self, *, refused: bool) -> None:
        """Run the plugin. If it has just run, its last credentials or its last error apply instead.

        Raises ClusterUnavailableError when there are no credentials.
        """
        assert self._endpoint is not None
        assert self._endpoint.plugin is not None
        if self._is_pausing():
            if self._issued is None:  # a cancelled run leaves no failure
                raise self._failure or ClusterUnavailableError("the exec plugin has given no credentials yet")
            if self._failure is not None and refused:
                raise self._failure
            return
        if self._failure is not None or refused:
            self._pause_seconds = self._backoff.next()
        try:
            issued = await run_plugin(self._endpoint.plugin, self._pace.plugin)
            await asyncio.to_thread(_context, self._endpoint, issued.certificate)
        except (ClusterUnavailableError, ConfigurationError) as error:
            self._failure = ClusterUnavailableError(str(error))
            # Credentials that were not refused stay in use: perhaps the plugin's clock is wrong.
            if not refused and self._issued is not None:
                _log.warning("The credentials can't be renewed: %s", error)
                return
            raise self._failure from error
        finally:
            self._ran = self._clock()
        self._failure = None
        self._issued = issued

    async def _build(self) -> None:
        assert self._endpoint is not None
        endpoint, issued = self._endpoint, self._issued
        authorization, certificate = endpoint.authorization, None
        if issued is not None:
            authorization, certificate = authorization or issued.authorization, issued.certificate
        identity = (("Authorization", authorization),) if authorization is not None else ()
        self._reconnect = False
        self._connection = ConnectionSettings(
            server=endpoint.server,
            proxy=endpoint.proxy,
            server_name=endpoint.server_name,
            tls=await asyncio.to_thread(_context, endpoint, certificate),
            headers=(*endpoint.headers, *identity),
        )


def trusting(authorities: str | None, setting: str) -> ssl.SSLContext:
    """Return a TLS context that trusts these authorities, as PEM, or those of the operating system.

    Raises ConfigurationError, which names the setting.
    """
    try:
        context = ssl.create_default_context(cadata=authorities)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{setting} is not a PEM certificate ({error.reason})") from error
    # Go checks no more than this either: clusters often have authorities without a key identifier, and a
    # trusted certificate needs no trusted issuer.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _context(endpoint: Endpoint, issued: ClientCertificate | None) -> ssl.SSLContext | None:
    """Return a new TLS context. Raises ConfigurationError for certificates that can't be used."""
    if not endpoint.server.startswith("https:"):
        return None
    context = trusting(endpoint.authorities, f"{endpoint.source}: certificate-authority")
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = issued or endpoint.certificate
    if certificate is not None:
        # The library reads certificates only from a file.
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(certificate.certificate + b"\n" + certificate.key)
                file.flush()
                context.load_cert_chain(file.name, password="")  # otherwise OpenSSL asks on the terminal
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
            raise ConfigurationError(
                f"{endpoint.source}: client-certificate and client-key do not fit together, or are not PEM "
                f"without a password ({reason})"
            ) from error
    return context
