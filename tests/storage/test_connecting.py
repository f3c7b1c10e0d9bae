"""Connecting to PostgreSQL: a URL is obeyed, and an error that waiting can't cure ends the start."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from datastorage.errors import ConfigurationError, TransientError
from datastorage.records.vector import EmbeddingModel
from datastorage.storage.connection.database import Database
from datastorage.storage.migrate import migrate
from datastorage.storage.schema import VECTORS
from datastorage.storage.vectors import VectorTables
from harness.controlplane.certificates import Certificates, ensure_certificates
from harness.postgres import TestDatabase
from tests.support.ping import trouble
from tests.support.tlsproxy import tls_in_front_of

_SETTING = "DATASTORAGE_DATABASE_URL"


@pytest.mark.parametrize(
    "query",
    [
        "connect_timeout=10", "sslmode=prefer&channel_binding=prefer", "gssencmode=disable",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000",
        "sslmode=disable&options=-c%20search_path%3Dpublic", "load_balance_hosts=disable", "keepalives=0",
        "statement_timeout=5s&search_path=public", "client_encoding=UTF8", "target_session_attrs=read-write",
    ],
)  # fmt: skip
async def test_a_url_that_other_programs_take_works(common: TestDatabase, query: str) -> None:
    assert await trouble(f"{common.service_url}?{query}") is None


async def test_the_name_of_the_url_is_shown_to_the_server(common: TestDatabase) -> None:
    database = Database(f"{common.service_url}?application_name=audit&jit=off", pool_size=1)
    async with database.connection() as connection:
        assert await connection.fetchval("SHOW application_name") == "audit"
        assert await connection.fetchval("SHOW jit") == "off"
    await database.close()


async def test_a_silent_connection_is_watched_as_the_url_says(common: TestDatabase) -> None:
    database = Database(f"{common.service_url}?keepalives_idle=33", pool_size=1)
    async with database.connection() as connection:
        # The driver shows its socket nowhere else.
        made = connection._transport.get_extra_info("socket")
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
    await database.close()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("schema=public", "schema"), ("pgbouncer=true", "pgbouncer"), ("statement_timeout=soon", "soon"),
        ("shared_buffers=1GB", "shared_buffers"), ("options=-c%20nonsense%3D1", "nonsense"),
        ("options=--nonsense", "nonsense"),
    ],
)  # fmt: skip
async def test_a_setting_that_the_server_refuses_is_named(
    common: TestDatabase, query: str, named: str
) -> None:
    error = await trouble(f"{common.service_url}?{query}")
    assert isinstance(error, ConfigurationError)
    assert _SETTING in str(error)
    assert named in str(error)


@pytest.mark.parametrize("spoilt", ["password", "role", "database"])
async def test_a_fault_that_somebody_may_repair_is_waited_for_with_a_hint(
    common: TestDatabase, spoilt: str
) -> None:
    role, _, rest = common.service_url.removeprefix("postgresql://").partition(":")
    password, _, rest = rest.partition("@")
    url = {
        "password": f"postgresql://{role}:wrong@{rest}",
        "role": f"postgresql://nobody:{password}@{rest}",
        "database": f"{common.service_url}_nowhere",
    }[spoilt]
    error = await trouble(url)
    assert isinstance(error, TransientError)
    assert _SETTING in str(error)
    assert password not in str(error)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates") / "ours")
    ensure_certificates(made, service_ip="127.0.0.1")
    return made


@pytest.fixture(scope="module")
def other_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates") / "others")
    ensure_certificates(made, service_ip="127.0.0.1")
    return made


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.api_server.certificate, certificates.api_server.key)
    return context


@pytest_asyncio.fixture
async def tls_url(common: TestDatabase, certificates: Certificates) -> AsyncIterator[str]:
    async with tls_in_front_of(common.service_url, _context(certificates)) as url:
        yield url


async def test_a_trusted_server_is_used(tls_url: str, certificates: Certificates) -> None:
    assert await trouble(f"{tls_url}?sslmode=verify-full&sslrootcert={certificates.ca}") is None
    pair = certificates.admin
    assert await trouble(f"{tls_url}?sslmode=require&sslcert={pair.certificate}&sslkey={pair.key}") is None


async def test_the_system_authorities_are_used(
    tls_url: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await trouble(f"{tls_url}?sslrootcert=system")
    assert isinstance(error, ConfigurationError)
    assert "not trusted" in str(error)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    assert await trouble(f"{tls_url}?sslrootcert=system&sslmode=verify-full&sslnegotiation=postgres") is None
    error = await trouble(f"{tls_url}?sslrootcert=system&sslmode=require")
    assert "sslrootcert=system needs sslmode=verify-full" in str(error)


async def test_a_certificate_of_another_authority_ends_the_start(
    tls_url: str, other_certificates: Certificates
) -> None:
    error = await trouble(f"{tls_url}?sslmode=verify-ca&sslrootcert={other_certificates.ca}")
    assert isinstance(error, ConfigurationError)
    assert "not trusted: " in str(error)
    assert f"sslrootcert in {_SETTING}" in str(error)


async def test_a_host_that_the_certificate_does_not_name_ends_the_start(
    tls_url: str, certificates: Certificates
) -> None:
    elsewhere = tls_url.replace("@127.0.0.1", "@127.0.0.2")
    error = await trouble(f"{elsewhere}?sslmode=verify-full&sslrootcert={certificates.ca}")
    assert isinstance(error, ConfigurationError)
    assert "127.0.0.2" in str(error)
    assert await trouble(f"{elsewhere}?sslmode=verify-ca&sslrootcert={certificates.ca}") is None


async def test_a_server_without_the_demanded_tls_ends_the_start(common: TestDatabase) -> None:
    error = await trouble(f"{common.service_url}?sslmode=require")
    assert isinstance(error, ConfigurationError)
    assert f"has no TLS, and sslmode in {_SETTING} requires it" in str(error)


@pytest.fixture
def spoilt_files(
    tmp_path: Path, certificates: Certificates, other_certificates: Certificates
) -> dict[str, Path]:
    pair = certificates.admin
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"right"),
    )
    files = {"locked": tmp_path / "locked.key", "no_pem": tmp_path / "no.pem", "open": tmp_path / "open.pass"}
    files["locked"].write_bytes(locked)
    files["no_pem"].write_bytes(struct.pack("!i", 1))
    files["open"].write_text("*:*:*:*:x")
    files["open"].chmod(0o644)
    return files | {"cert": pair.certificate, "key": pair.key, "other_key": other_certificates.admin.key}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=verify-full&sslrootcert=/no/such/ca.crt", "sslrootcert names /no/such/ca.crt, .* there"),
        ("sslmode=verify-ca&sslrootcert={no_pem}", "sslrootcert names .*no.pem, which has no certificate"),
        ("sslmode=require&sslrootcert={cert}&sslcrl=/no/crl", "sslcrl names /no/crl, which is not there"),
        ("sslcert=/no/such.crt&sslkey={key}", "sslcert names /no/such.crt, which is not there"),
        ("sslcert={cert}&sslkey=/no/such.key", "sslkey names /no/such.key, which is not there"),
        ("sslcert={cert}&sslkey={other_key}", "which is not the key of sslcert"),
        ("sslcert={cert}&sslkey={locked}&sslpassword=hunter2", "can't be read with sslpassword"),
        ("sslcert={no_pem}&sslkey={key}", "sslcert names .*no.pem, which is no certificate in PEM form"),
        ("passfile=/no/such/pass", "passfile names /no/such/pass, which is not there"),
        ("passfile={open}", "passfile names .*open.pass, which others may read"),
        ("sslmode=verify-full", 'root certificate file ".*" does not exist'),
    ],
)  # fmt: skip
async def test_an_unusable_file_is_named(
    tls_url: str, spoilt_files: dict[str, Path], query: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    parts = urlsplit(tls_url)
    if "passfile" in query:  # the driver reads it if the URL has no password
        parts = parts._replace(netloc=f"{parts.username}@127.0.0.1:{parts.port}")
    with pytest.raises(ConfigurationError, match=f"^{_SETTING}: .*{said}") as caught:
        raise await trouble(f"{parts.geturl()}?{query.format(**spoilt_files)}") or AssertionError
    assert "hunter2" not in str(caught.value)


async def test_a_key_opens_with_its_password(tls_url: str, spoilt_files: dict[str, Path]) -> None:
    query = "sslmode=require&sslcert={cert}&sslkey={locked}&sslpassword=right".format(**spoilt_files)
    assert await trouble(f"{tls_url}?{query}") is None


async def test_wrong_settings_of_vectors_keep_no_record_from_being_stored(common: TestDatabase) -> None:
    """A certificate that expires is a reason to store records without vectors, not to store none."""
    database = Database(f"{common.service_url}?sslmode=require", pool_size=1, chain=VECTORS)
    tables = VectorTables(database, EmbeddingModel("p", "n", 3))
    with pytest.raises(TransientError, match="has no TLS, and sslmode in DATASTORAGE_VECTOR_DATABASE_URL"):
        await tables.probe()
    await database.close()


@pytest.mark.parametrize(
    "query", ["channel_binding=require", "sslrootcert=/no/ca&sslmode=require", "schema=x"]
)
def test_migrating_names_the_setting_of_the_owner(common: TestDatabase, query: str) -> None:
    with pytest.raises(ConfigurationError, match="DATASTORAGE_DATABASE_OWNER_URL"):
        migrate(f"{common.owner_url}?{query}")


def test_migrating_accepts_urls_of_other_programs(common: TestDatabase) -> None:
    migrate(f"{common.owner_url}?connect_timeout=10&channel_binding=prefer&application_name=x")
