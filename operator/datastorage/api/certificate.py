"""The certificate of the API port: read from a mounted directory, and read again when it changes."""

import asyncio
import logging
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from datastorage import metrics
from datastorage.errors import ConfigurationError
from datastorage.files import fingerprint, read_file

_log = logging.getLogger(__name__)

_SETTING: Final = "DATASTORAGE_TLS_DIR"
# The names of a Secret of the type kubernetes.io/tls.
CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
# A Secret can't be larger.
_MAX_FILE_BYTES: Final = 1024 * 1024
_REMEDY: Final = (
    "mount a Secret of the type kubernetes.io/tls there (kubectl create secret tls NAME --cert=FILE "
    "--key=FILE), or leave the setting empty for plain HTTP"
)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ENCRYPTED: Final = b"ENCRYPTED"
_REASONS: Final = {
    "KEY_VALUES_MISMATCH": f"{KEY_FILE} is not the key of {CERTIFICATE_FILE}",
    "EE_KEY_TOO_SMALL": f"the key of {CERTIFICATE_FILE} is too small to be safe",
}


@dataclass(frozen=True, slots=True)
class CertificatePace:
    """How often the files are looked at."""

    look_seconds: float = 5.0
    """Between two looks. The kubelet takes up to a minute to replace the files. A new pair is used when two
    looks have found the same: a file may be half written, or the certificate be there before its key."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    ends_at: datetime


class ServingCertificate:
    """The certificate and key of a server, as they are now in their directory."""

    def __init__(self, directory: Path, *, pace: CertificatePace = CertificatePace()) -> None:
        """Raises ConfigurationError, which says what to do, for files that can't be used."""
        self._directory = directory
        self._pace = pace
        self._seen = self._fingerprints()
        try:
            self._loaded = _load(directory)
        except ConfigurationError as error:
            raise ConfigurationError(f"{_SETTING}: {error}; {_REMEDY}") from error.__cause__
        self._refused: str | None = None
        # Connections that exist keep the context with which they began; each new one takes the newest.
        self.context: Final = _new_context()
        self.context.sni_callback = self._choose
        self._publish()

    async def follow(self) -> None:
        """Look for changes until cancelled. New files that can't be used are logged, and change nothing."""
        before = self._seen
        while True:
            await asyncio.sleep(self._pace.look_seconds)
            found = self._fingerprints()
            if found == before != self._seen:
                self._seen = found
                self._reload()
            before = found

    async def problem(self) -> str | None:
        """Return what is wrong in a sentence, or None."""
        if self._refused is not None:
            return f"the new certificate can't be used, so the one before stays in use: {self._refused}"
        if self._loaded.ends_at <= datetime.now(UTC):
            return f"the certificate has expired at {self._loaded.ends_at.isoformat()}"
        return None

    def _reload(self) -> None:
        try:
            self._loaded = _load(self._directory)
        except ConfigurationError as error:
            self._refused = str(error)
            metrics.CERTIFICATE_LOADS.labels(metrics.Completion.FAILED).inc()
            _log.error(  # without a traceback, since the pair before stays in use
                "The certificate in %s has changed and can't be used; the one before stays in use",
                _SETTING,
                extra={"error": self._refused},
            )
            return
        self._refused = None
        self._publish()
        _log.info(
            "The new certificate in %s is used", _SETTING, extra={"ends": self._loaded.ends_at.isoformat()}
        )

    def _publish(self) -> None:
        metrics.CERTIFICATE_LOADS.labels(metrics.Completion.SUCCESS).inc()
        metrics.CERTIFICATE_END.declare(metrics.CertifiedPort.API).set(self._loaded.ends_at.timestamp())
        if self._loaded.ends_at <= datetime.now(UTC):
            _log.error(
                "The certificate in %s has expired: clients will refuse it",
                _SETTING,
                extra={"ends": self._loaded.ends_at.isoformat()},
            )

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # A context is replaced as a whole: loading new files into the one in use could leave it with the new
        # certificate and the old key. The library calls this for clients without a server name, too.
        del name, context
        handshake.context = self._loaded.context

    def _fingerprints(self) -> tuple[Any, ...]:
        return tuple(fingerprint(self._directory / name) for name in (CERTIFICATE_FILE, KEY_FILE))


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(directory: Path) -> _Loaded:
    """Return the pair in a directory. Raises ConfigurationError, whose message says what is wrong."""
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a directory")
    certificate = _read(directory, CERTIFICATE_FILE)
    key = _read(directory, KEY_FILE)
    if _ENCRYPTED in key:  # OpenSSL reports this like any other mistake
        raise ConfigurationError(f"{directory}: {KEY_FILE} is encrypted: store it without a password")
    context = _new_context()
    try:
        # Without a password here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or ""
        detail = _REASONS.get(reason, f"{CERTIFICATE_FILE} or {KEY_FILE} is not in PEM form")
        raise ConfigurationError(f"{directory}: {detail}") from error
    first = _PEM.search(certificate.decode("latin-1"))
    if first is None:
        raise ConfigurationError(f"{directory}: {CERTIFICATE_FILE} is not in PEM form")
    return _Loaded(context, end_of(ssl.PEM_cert_to_DER_cert(first[0])))


def _read(directory: Path, name: str) -> bytes:
    try:
        return read_file(directory / name, _MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{directory} has no file {name}") from error
    except OSError as error:
        raise ConfigurationError(f"{directory / name} can't be read: {error.strerror}") from error


def end_of(certificate: bytes) -> datetime:
    """Return until when a certificate in DER form is valid. OpenSSL must have accepted it before.

    The standard library shows this date only of the certificates of others.
    """
    _, at, _ = _element(certificate, 0)  # Certificate
    _, at, _ = _element(certificate, at)  # tbsCertificate
    tag, _, end = _element(certificate, at)
    if tag == _VERSION:
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(certificate, at)
    _, at, _ = _element(certificate, at)  # validity
    _, _, at = _element(certificate, at)  # notBefore
    tag, start, end = _element(certificate, at)
    text = certificate[start:end].decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280: two digits of the year, from 1950 to 2049
        text = f"{'19' if text >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONG: Final = 0x80


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER element at a place, and where its content begins and ends."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & _LONG:
        digits = length & ~_LONG
        length = int.from_bytes(data[start : start + digits], "big")
        start += digits
    return tag, start, start + length
