"""Sends GET requests to the API server as its administrator, without starting kubectl."""

import http.client
import ssl
import urllib.error
import urllib.request

from harness.controlplane.certificates import Certificates

TIMEOUT = 30.0  # seconds; some of them on a busy machine


class AdminClient:
    """Reads paths of the API server with the administrator's client certificate."""

    def __init__(self, url: str, certificates: Certificates) -> None:
        context = ssl.create_default_context(cafile=certificates.ca)
        context.load_cert_chain(certificates.admin.certificate, certificates.admin.key)
        # No proxy handler: the server is on 127.0.0.1, whatever the environment says.
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)
        self._url = url

    def get(self, path: str) -> str:
        """Return the body of a path.

        Raises:
            OSError: the server cannot be reached, or answers with an error status.
        """
        try:
            with self._opener.open(f"{self._url}{path}", timeout=TIMEOUT) as response:
                body: bytes = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"the API server broke off its answer: {error!r}") from error
        return body.decode()

    def answers(self, path: str) -> bool:
        """Return whether a path is answered with success."""
        try:
            self.get(path)
        except OSError:
            return False
        return True
