"""Docker for the tests on kind: its client, and a daemon of our own where none answers.

Most machines have a Docker that answers, and then nothing here starts or changes anything. Where there is
none, as in containers and small virtual machines without systemd, `daemon` starts dockerd for a while, and
afterwards takes away what dockerd leaves on the machine: that, and nothing of anyone else.
"""

from harness.docker.client import Docker
from harness.docker.daemon import Daemon
from harness.docker.errors import DockerError
from harness.docker.machine import Machine

__all__ = ["Daemon", "Docker", "DockerError", "Machine"]
