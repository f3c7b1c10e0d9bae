"""What a request needs to get to the API server, kept up to date.

Files are read again when they change, a plugin is run again when its credentials expire, and both after the
API server has refused what there was.
"""

import asyncio
import logging
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.kube.access import Access, ClientCertificate
from datastorage.kube.execplugin import PluginCredential, run_plugin

_log = logging.getLogger(__name__)

# Kubelet writes a new token a fifth of its lifetime before the old one expires: minutes at the least.
_LOOK_SECONDS: Final = 10.0
# Requests that are under way reach the API server before the credentials expire.
_EXPIRY_MARGIN_SECONDS: Final = 10.0
# Pauses between two runs of a plugin that fails, or whose credentials are refused.
_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 30.0
# At most so often does trouble with the API server lead to new connections.
_RECONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Way:
    """One state of everything that a request needs. A new state is a new object."""

    server: str
    proxy: str | None = field(repr=False)
    server_name: str | None
    tls: ssl.SSLContext | None
    """Also what keeps connections apart: none that was made with another one is used any more."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)


class Credentials:
    """Gives the current way, and a new one when that is refused."""

    def __init__(self, load: Callable[[], Access]) -> None:
        """``load`` reads everything again; it raises ConfigurationError."""
        self._load = load
        self._lock = asyncio.Lock()
        self._access: Access | None = None
        self._issued: PluginCredential | None = None
        self._way: Way | None = None
        self._files: tuple[object, ...] | None = None
        self._complaint: str | None = None
        self._looked = self._reconnected = self._ran = 0.0
        self._reconnect = False
        self._pause = _FIRST_PAUSE_SECONDS
        self._failure: ClusterUnavailableError | None = None

    async def load(self) -> None:
        """Read everything for the first time. Raises ConfigurationError."""
        async with self._lock:
            if self._access is None:
                await self._look(even_if_unchanged=True)

    async def current(self) -> Way:
        """Return the way as it is now.

        Raises ClusterUnavailableError while a plugin has given no credentials.
        """
        if self._way is None or self._is_due():
            async with self._lock:
                if self._way is None or self._is_due():
                    await self._refresh()
        assert self._way is not None
        return self._way

    async def renewed(self, refused: Way) -> Way | None:
        """Return another way than the one that the API server has refused; None where there is none.

        Raises ClusterUnavailableError when the plugin fails.
        """
        async with self._lock:
            if self._way is refused:
                before = self._identity()
                await self._look(even_if_unchanged=True)
                if self._access is not None and self._access.plugin is not None:
                    await self._run_plugin(refused=True)
                if self._identity() == before:
                    return None
                await self._build()
            return self._way

    def accepted(self) -> None:
        """Note that the API server knows us: the next refusal is answered at once."""
        self._pause = _FIRST_PAUSE_SECONDS

    def reconnect(self) -> None:
        """Have later requests make new connections: behind one address there may be a server that works."""
        if time.monotonic() - self._reconnected > _RECONNECT_SECONDS:
            self._reconnected = time.monotonic()
            self._reconnect = True

    def _is_due(self) -> bool:
        return self._reconnect or self._has_expired() or time.monotonic() - self._looked > _LOOK_SECONDS

    def _has_expired(self) -> bool:
        issued = self._issued
        return (
            issued is not None
            and issued.expires is not None
            and issued.expires - time.time() < _EXPIRY_MARGIN_SECONDS
            and not self._is_pausing()
        )

    def _is_pausing(self) -> bool:
        return time.monotonic() - self._ran < self._pause

    async def _refresh(self) -> None:
        before = self._identity()
        if self._access is None or time.monotonic() - self._looked > _LOOK_SECONDS:
            await self._look(even_if_unchanged=False)
        assert self._access is not None
        if self._access.plugin is None:
            self._issued = None
        elif self._issued is None or self._has_expired():
            await self._run_plugin(refused=False)
        if self._way is None or self._reconnect or self._identity() != before:
            await self._build()

    def _identity(self) -> tuple[Access | None, PluginCredential | None]:
        return self._access, self._issued

    async def _look(self, *, even_if_unchanged: bool) -> None:
        """Read the files if they have changed. What can't be read leaves in force what was read before."""
        self._looked = time.monotonic()
        before = self._access
        try:
            await asyncio.to_thread(self._read_files, even_if_unchanged=even_if_unchanged)
        except ConfigurationError as error:
            if before is None:
                raise
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("Access to the API server can't be read again, the last state holds: %s", error)
            return
        self._complaint = None
        if before is not None and self._access is not before:
            if self._access is None or self._access.plugin != before.plugin:
                self._issued, self._ran = None, 0.0
            _log.info("Access to the API server has changed and was read again")

    def _read_files(self, *, even_if_unchanged: bool) -> None:
        """Runs in a thread: a file may be on a file system that is slow."""
        known = self._access.files if self._access is not None else ()
        # Taken before the reading: what is written during it is a change that the next look finds.
        files = _fingerprint(known)
        if self._files == files and not even_if_unchanged:
            return
        self._files = None  # what fails is tried again, and other files than before are looked at once more
        read = self._load()
        _context(read, None)  # refuse what can't be used before it takes the place of what can
        if read != self._access:
            self._access = read
        if read.files == known:
            self._files = files

    async def _run_plugin(self, *, refused: bool) -> None:
        """Run the plugin, unless it has just run: then keep to what it has said.

        Raises ClusterUnavailableError when there are no credentials.
        """
        assert self._access is not None
        assert self._access.plugin is not None
        if self._ran and self._is_pausing():
            if self._issued is None:  # a run that was cancelled has left no failure
                raise self._failure or ClusterUnavailableError("the exec plugin has given no credentials yet")
            if self._failure is not None and refused:
                raise self._failure
            return
        if self._failure is not None or refused:
            self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS)
        try:
            issued = await run_plugin(self._access.plugin)
            await asyncio.to_thread(_context, self._access, issued.certificate)
        except (ClusterUnavailableError, ConfigurationError) as error:
            self._failure = ClusterUnavailableError(str(error))
            if not refused and self._issued is not None:  # not refused yet: perhaps its clock is wrong
                _log.warning("The credentials can't be renewed: %s", error)
                return
            raise self._failure from error
        finally:
            self._ran = time.monotonic()
        self._failure = None
        self._issued = issued

    async def _build(self) -> None:
        assert self._access is not None
        access, issued = self._access, self._issued
        authorization = access.authorization or (issued.authorization if issued is not None else None)
        identity = (("Authorization", authorization),) if authorization is not None else ()
        self._reconnect = False
        self._way = Way(
            server=access.server,
            proxy=access.proxy,
            server_name=access.server_name,
            tls=await asyncio.to_thread(_context, access, issued.certificate if issued is not None else None),
            headers=(*access.headers, *identity),
        )


def _fingerprint(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Return what changes when a file is written, or replaced by a rename or behind a symbolic link."""
    found: list[object] = []
    for path in files:
        try:
            state = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(found)


def _context(access: Access, issued: ClientCertificate | None) -> ssl.SSLContext | None:
    """Return a new context. Raises ConfigurationError for certificates that are none."""
    if not access.server.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cadata=access.authorities)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{access.source}: certificate-authority is no PEM certificate ({error.reason})"
        ) from error
    # As in Go: certificates of authorities that name no key identifier are common in clusters, and each
    # certificate that is trusted is trusted without the one above it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = issued or access.certificate
    if certificate is not None:
        # The library takes a file only.
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(certificate.certificate + b"\n" + certificate.key)
                file.flush()
                context.load_cert_chain(file.name, password="")  # or OpenSSL asks on the terminal
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
            raise ConfigurationError(
                f"{access.source}: client-certificate and client-key do not fit together, or are not PEM "
                f"without a password ({reason})"
            ) from error
    return context
