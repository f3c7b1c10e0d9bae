"""The operator's API over TLS, with a certificate that is replaced while it runs."""

import asyncio
import json
import ssl
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.storing import Callers, body
from e2e.workbench import Workbench
from harness.operatorprocess import OperatorProcess
from harness.polling import until
from harness.servingcertificates import Authority, MountedSecret, Pair

END = "datastorage_tls_certificate_expiration_timestamp_seconds"


class SecureClient:
    """Sends requests to an operator, and trusts one authority."""

    def __init__(self, operator: OperatorProcess, authority: Authority) -> None:
        self._address = urlsplit(operator.api_url)
        self._context = ssl.create_default_context(cadata=authority.pem.decode())
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # this authority has no key identifiers

    def send(self, method: str, path: str, value: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        connection = self.connect()
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if value is None else json.dumps(value), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def connect(self) -> HTTPSConnection:
        """Return an open connection."""
        assert self._address.hostname is not None
        connection = HTTPSConnection(
            self._address.hostname, self._address.port, timeout=30, context=self._context
        )
        connection.connect()
        return connection

    def certificate(self) -> bytes:
        """Return the certificate that a new connection has."""
        connection = self.connect()
        try:
            assert isinstance(connection.sock, ssl.SSLSocket)
            found = connection.sock.getpeercert(binary_form=True)
            assert found is not None
            return found
        finally:
            connection.close()


def der(of: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(of.certificate.decode())


async def test_records_are_stored_over_tls_and_the_certificate_is_replaced(
    workbench: Workbench, tmp_path: Path
) -> None:
    authority = Authority()
    ends = [datetime(2035, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)]
    first, second = (authority.server("127.0.0.1", ends_at=end) for end in ends)
    secret = MountedSecret(tmp_path / "tls", first)
    operator = workbench.start_operator(wait=False, TLS_DIR=secret.folder)
    client = SecureClient(operator, authority)

    async def ready() -> dict[str, Any] | None:
        operator.check()
        try:
            status, answer = await asyncio.to_thread(client.send, "GET", "/ready")
        except OSError:
            return None
        return dict(answer["checks"]) if status == 200 else None

    checks = await until(ready, what="the operator is ready")
    assert checks["certificate"] == "ok"
    callers = Callers(workbench.cluster, workbench.namespace)
    token = callers.token("both", "datastorage-writer", "datastorage-archive-reader")
    status, receipt = client.send("POST", "/api/v1/store/workflow", body(workbench.namespace), token)
    assert status == 201, receipt
    assert operator.metric(f'{END}{{port="api"}}') == ends[0].timestamp()  # over plain HTTP

    secret.show(second)

    async def is_replaced() -> bool:
        return await asyncio.to_thread(client.certificate) == der(second)

    await until(is_replaced, what="new connections have the new certificate")
    assert operator.metric(f'{END}{{port="api"}}') == ends[1].timestamp()
    path = f"/api/v1/query/records/{receipt['uid']}?namespace={workbench.namespace}"
    status, found = client.send("GET", path, token=token)
    assert (status, found["uid"]) == (200, receipt["uid"])


async def test_a_start_without_the_files_says_what_to_do(workbench: Workbench, tmp_path: Path) -> None:
    operator = workbench.start_operator(wait=False, TLS_DIR=tmp_path / "nowhere")

    async def ended() -> bool:
        return operator.exit_code is not None

    await until(ended, what="the operator has ended")
    assert operator.exit_code == 2
    [line] = [line for line in operator.log().splitlines() if line.startswith("datastorage: ")]
    assert "DATASTORAGE_TLS_DIR: " in line
    assert "nowhere is not a directory; mount a Secret" in line
