"""A Redis and an embedding service of the demo's own: processes that can be taken away and brought back."""

import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datastorage.embeddedservers import redis_program
from examples.demo.narrator import Narrator
from harness import REPOSITORY, minilm
from harness.controlplane import ControlPlaneError
from harness.controlplane.processes import Component, ProcessGroup
from harness.ports import free_port

START_TIMEOUT = 60.0  # seconds; the model is loaded in less than 2 on an idle machine
HOST = "127.0.0.1"


class Service:
    """A program that listens on a port. Started again, it listens on the same port and remembers nothing."""

    def __init__(self, component: Component, port: int, group: ProcessGroup) -> None:
        self.port = port
        self._component = component
        self._group = group
        self._wanted = False

    def start(self) -> None:
        """Start it, and return when it listens.

        Raises:
            ComponentError: it ended, or does not listen in time.
        """
        self._component.start(self._group)
        self._wanted = True
        self._component.wait_ready(self._listens, START_TIMEOUT)

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        self._wanted = False
        self._component.signal(signal.SIGKILL)
        self._component.wait()

    def check(self) -> None:
        """Raise ComponentError if it has ended by itself."""
        if self._wanted:
            self._component.check()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


@dataclass(frozen=True)
class Services:
    """The services that the operator uses besides PostgreSQL."""

    redis: Service
    embedder: Service

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings with which the operator and its command line find them."""
        return {
            "DATASTORAGE_REDIS_URL": f"redis://{HOST}:{self.redis.port}/0",
            "DATASTORAGE_EMBEDDING_PROVIDER": "openai",
            "DATASTORAGE_EMBEDDING_URL": f"http://{HOST}:{self.embedder.port}/v1",
            "DATASTORAGE_EMBEDDING_MODEL": minilm.NAME,
            "DATASTORAGE_EMBEDDING_DIMENSIONS": str(minilm.DIMENSION),
        }

    def check(self) -> None:
        """Raise ComponentError if one of them has ended by itself."""
        self.redis.check()
        self.embedder.check()


@contextmanager
def services(narrator: Narrator, directory: Path) -> Iterator[Services]:
    """Run both until the block ends. Their logs are in the same folder as the operator's.

    Raises:
        ControlPlaneError: there is no redis-server, or one of them does not start.
    """
    redis_server = redis_program()
    if redis_server is None:
        raise ControlPlaneError("no redis-server is installed: run 'make setup', or install one")
    logs = directory / "operator"
    logs.mkdir(parents=True, exist_ok=True)
    group = ProcessGroup()

    def service(name: str, port: int, command: Sequence[str]) -> Service:
        return Service(Component(name, command, logs / f"{name}.log"), port, group)

    redis_port, embedder_port = free_port(), free_port()
    on_port = ("--port", str(redis_port), "--bind", HOST, "--dir", str(logs), "--save", "")
    server = (sys.executable, "-m", "harness.modelserver", "--port", str(embedder_port))
    both = Services(
        service("redis", redis_port, [redis_server, *on_port]),
        service("embedder", embedder_port, ["env", f"PYTHONPATH={REPOSITORY}", *server]),
    )
    narrator.say(f"Starting Redis, and an embedding service: {minilm.NAME} behind an OpenAI-compatible API")
    narrator.say("(The default is a model inside the operator: then no text leaves the cluster)")
    try:
        both.redis.start()
        both.embedder.start()
        yield both
    finally:
        group.kill()
