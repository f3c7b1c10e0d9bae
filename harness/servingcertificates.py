"""A certificate authority for servers and clients, and a Secret with a pair of it as a kubelet mounts it."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.controlplane.certificates import certificate_builder


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write, or replace, name.crt and name.key."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            fresh = path.with_suffix(f"{path.suffix}.new")
            fresh.write_bytes(content)
            fresh.rename(path)
        return paths


class MountedSecret:
    """A Secret of the type kubernetes.io/tls, as the kubelet mounts it: all files change at once."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        self.replace({"tls.crt": pair.certificate, "tls.key": pair.key})
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    def show(self, pair: Pair) -> None:
        """Replace both files."""
        self.replace({"tls.crt": pair.certificate, "tls.key": pair.key})

    def replace(self, files: Mapping[str, bytes]) -> None:
        """Replace all files by these."""
        self._versions += 1
        version = self.folder / f"..version_{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.rename(self.folder / "..data")


class Authority:
    """Signs certificates for servers and clients."""

    def __init__(self, name: str = "test-authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        # Without key identifiers, as many clusters' authorities are.
        self._certificate = (
            certificate_builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, *names: str, ends_at: datetime | None = None) -> Pair:
        """Return a serving certificate for host names and addresses."""
        alternatives = x509.SubjectAlternativeName(list(map(_general, names)))
        return self._issue("server", alternatives, server=True, ends_at=ends_at)

    def client(self, user: str) -> Pair:
        """Return a client certificate."""
        return self._issue(user, None, server=False)

    def _issue(
        self,
        name: str,
        names: x509.SubjectAlternativeName | None,
        *,
        server: bool,
        ends_at: datetime | None = None,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = certificate_builder(
            _named(name), self._name, key.public_key(), ends_at=ends_at
        ).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
