"""The certificate of the API port is read from a directory, and read again when it changes."""

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from datastorage import metrics
from datastorage.api.certificate import CertificatePace, ServingCertificate, end_of
from datastorage.errors import ConfigurationError
from harness.polling import until
from harness.servingcertificates import Authority, MountedSecret, Pair

PACE = CertificatePace(look_seconds=0.02)
AUTHORITY = Authority()


def pair(ends_at: datetime | None = None) -> Pair:
    return AUTHORITY.server("127.0.0.1", ends_at=ends_at)


def der(of: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(of.certificate.decode())


def shown(certificate: ServingCertificate) -> bytes:
    """Return the certificate that a new client sees, in DER form."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    client = trusting.wrap_bio(to_client, to_server)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


class Mounted:
    """A mounted Secret, and the certificate that follows it."""

    def __init__(self, folder: Path) -> None:
        self.first = pair()
        self.secret = MountedSecret(folder / "tls", self.first)
        self.certificate = ServingCertificate(self.secret.folder, pace=PACE)

    async def until_shown(self, wanted: Pair) -> None:
        async def is_shown() -> bool:
            return shown(self.certificate) == der(wanted)

        await until(is_shown, what="the new certificate is shown")

    async def until_refused(self) -> str:
        return await until(self.certificate.problem, what="a problem")


@pytest_asyncio.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[Mounted]:
    made = Mounted(tmp_path)
    following = asyncio.create_task(made.certificate.follow())
    yield made
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def loads(outcome: str) -> float:
    value = metrics.REGISTRY.get_sample_value("datastorage_tls_certificate_loads_total", {"outcome": outcome})
    return value or 0.0


def end_metric() -> float | None:
    return metrics.REGISTRY.get_sample_value(
        "datastorage_tls_certificate_expiration_timestamp_seconds", {"port": "api"}
    )


@pytest.mark.parametrize(
    "ends_at",
    [
        datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_the_end_is_read_from_the_certificate(tmp_path: Path, ends_at: datetime) -> None:
    made = pair(ends_at)
    assert end_of(der(made)) == ends_at
    ServingCertificate(MountedSecret(tmp_path / "tls", made).folder)
    assert end_metric() == ends_at.timestamp()


async def test_an_expired_certificate_is_served_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = pair(datetime.now(UTC) - timedelta(hours=1))
    certificate = ServingCertificate(MountedSecret(tmp_path / "tls", made).folder)
    assert shown(certificate) == der(made)
    assert "has expired" in str(await certificate.problem())
    assert "has expired" in caplog.text


async def test_a_new_pair_is_shown_to_new_clients(mounted: Mounted) -> None:
    before = loads("success")
    assert shown(mounted.certificate) == der(mounted.first)
    fresh = pair(datetime(2040, 1, 1, tzinfo=UTC))
    mounted.secret.show(fresh)
    await mounted.until_shown(fresh)
    assert loads("success") == before + 1
    assert end_metric() == datetime(2040, 1, 1, tzinfo=UTC).timestamp()
    assert await mounted.certificate.problem() is None


def no_pem(_: Pair) -> dict[str, bytes]:
    return {"tls.crt": b"no certificate", "tls.key": b"no key"}


def without_key(fresh: Pair) -> dict[str, bytes]:
    return {"tls.crt": fresh.certificate}


def empty(_: Pair) -> dict[str, bytes]:
    return {"tls.crt": b"", "tls.key": b""}


def cut_off(fresh: Pair) -> dict[str, bytes]:
    return {"tls.crt": fresh.certificate[:-200], "tls.key": fresh.key}


def of_two_pairs(fresh: Pair) -> dict[str, bytes]:
    return {"tls.crt": fresh.certificate, "tls.key": pair().key}


def encrypted(fresh: Pair) -> dict[str, bytes]:
    key = serialization.load_pem_private_key(fresh.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    return {"tls.crt": fresh.certificate, "tls.key": key}


BROKEN = {
    no_pem: "tls.crt or tls.key is not in PEM form",
    without_key: "has no file tls.key",
    empty: "tls.crt or tls.key is not in PEM form",
    cut_off: "tls.crt or tls.key is not in PEM form",
    of_two_pairs: "tls.key is not the key of tls.crt",
    encrypted: "tls.key is encrypted: store it without a password",
}


@pytest.mark.parametrize("files", BROKEN, ids=lambda files: files.__name__)
async def test_a_pair_that_cannot_be_used_changes_nothing(
    mounted: Mounted, files: Callable[[Pair], dict[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    failed, end, fresh = loads("failed"), end_metric(), pair(datetime(2040, 1, 1, tzinfo=UTC))
    mounted.secret.replace(files(fresh))
    problem = await mounted.until_refused()
    assert BROKEN[files] in problem
    assert shown(mounted.certificate) == der(mounted.first)
    assert (loads("failed"), end_metric()) == (failed + 1, end)
    [logged] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert BROKEN[files] in logged.error  # type: ignore[attr-defined]
    mounted.secret.show(fresh)
    await mounted.until_shown(fresh)
    assert await mounted.certificate.problem() is None


async def test_files_that_are_replaced_one_after_the_other_are_used_together(
    tmp_path: Path, mounted: Mounted
) -> None:
    """Not by a kubelet: a person copies the files."""
    folder = tmp_path / "copied"
    folder.mkdir()
    first, fresh = pair(), pair()
    (folder / "tls.crt").write_bytes(first.certificate)
    (folder / "tls.key").write_bytes(first.key)
    mounted.certificate = ServingCertificate(folder, pace=PACE)
    following = asyncio.create_task(mounted.certificate.follow())
    (folder / "tls.crt").write_bytes(fresh.certificate)
    assert "tls.key is not the key of tls.crt" in await mounted.until_refused()
    assert shown(mounted.certificate) == der(first)
    (folder / "tls.key").write_bytes(fresh.key)
    await mounted.until_shown(fresh)
    following.cancel()


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        ServingCertificate(folder)
    message = str(caught.value)
    assert message.startswith("DATASTORAGE_TLS_DIR: ")
    assert "kubectl create secret tls" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("files", BROKEN, ids=lambda files: files.__name__)
def test_a_start_with_files_that_cannot_be_used_says_what_to_do(
    tmp_path: Path, files: Callable[[Pair], dict[str, bytes]]
) -> None:
    for name, content in files(pair()).items():
        (tmp_path / name).write_bytes(content)
    assert BROKEN[files] in refusal(tmp_path)


def test_a_start_with_a_wrong_directory_says_what_to_do(tmp_path: Path) -> None:
    assert "nowhere is not a directory" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "file is not a directory" in refusal(tmp_path / "file")
    assert "has no file tls.crt" in refusal(tmp_path)
    os.mkfifo(tmp_path / "tls.crt")  # must not be waited for
    assert "not a regular file" in refusal(tmp_path)
