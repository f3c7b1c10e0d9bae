"""The certificate authority of one control plane, and the keys it signs."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=3650)  # a directory that is kept must start again years later
CLOCK_SKEW = dt.timedelta(hours=1)

API_SERVER_NAMES = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
]


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """Every key and certificate of a control plane, as files in one directory."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def api_server(self) -> KeyPair:
        return self._pair("apiserver")

    @property
    def admin(self) -> KeyPair:
        """A member of system:masters, which RBAC never refuses."""
        return self._pair("admin")

    @property
    def controller_manager(self) -> KeyPair:
        return self._pair("controller-manager")

    @property
    def service_account_key(self) -> Path:
        """The private key that signs ServiceAccount tokens; it verifies them too."""
        return self.directory / "service-account.key"

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")


def ensure_certificates(certificates: Certificates, *, service_ip: str) -> None:
    """Create the files, unless they exist.

    They are kept over restarts, so that kubeconfigs and tokens handed out before stay valid.
    `service_ip` is the address of the `kubernetes` Service, which the serving certificate names.
    """
    if certificates.service_account_key.exists():
        return
    certificates.directory.mkdir(mode=0o700, exist_ok=True)
    authority = _Authority()
    certificates.ca.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address(service_ip)]
    authority.issue_server(
        certificates.api_server, [*map(x509.DNSName, API_SERVER_NAMES), *map(x509.IPAddress, addresses)]
    )
    authority.issue_client(certificates.admin, "kubernetes-admin", organization="system:masters")
    authority.issue_client(certificates.controller_manager, "system:kube-controller-manager")
    # This key is written last: its presence means that the set is complete.
    _write_key(certificates.service_account_key, _new_key())


class _Authority:
    def __init__(self) -> None:
        self._key = _new_key()
        name = _name("datastorage-test-ca")
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = (
            certificate_builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue_server(self, pair: KeyPair, names: list[x509.GeneralName]) -> None:
        extensions: list[x509.ExtensionType] = [
            x509.SubjectAlternativeName(names),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        ]
        self._issue(pair, _name("kube-apiserver"), extensions)

    def issue_client(self, pair: KeyPair, user: str, *, organization: str | None = None) -> None:
        """Issue a client certificate: Kubernetes takes the user from CN and the group from O."""
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        self._issue(pair, _name(user, organization), [usage])

    def _issue(self, pair: KeyPair, subject: x509.Name, extensions: list[x509.ExtensionType]) -> None:
        key = _new_key()
        builder = certificate_builder(subject, self.certificate.subject, key.public_key())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in [x509.BasicConstraints(ca=False, path_length=None), identifier, *extensions]:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(pair.key, key)


def certificate_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    ends_at: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    """Return what every certificate of a test begins with: names, key, number, and that it is valid now."""
    now = dt.datetime.now(dt.UTC)
    ends_at = ends_at or now + LIFETIME
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends_at) - CLOCK_SKEW)
        .not_valid_after(ends_at)
    )


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
