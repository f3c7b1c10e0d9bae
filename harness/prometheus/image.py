"""Prometheus as an image, for a cluster whose nodes can't pull one."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from harness.docker import Docker
from harness.prometheus.programs import ensure_prometheus_alone

DATA: Final = "/prometheus"
"""Where it keeps its data: a folder that it may write to has to be mounted there."""

_DOCKERFILE: Final = f"""
FROM scratch
COPY prometheus /bin/prometheus
USER 65532:65532
WORKDIR {DATA}
ENTRYPOINT ["/bin/prometheus"]
"""


def ensure_image(docker: Docker) -> str:
    """Have the image in Docker, and return its tag; the program is built if it is missing.

    Raises:
        BuildError: the program can't be built.
        DockerError: Docker refused a command.
    """
    program = ensure_prometheus_alone()
    # The folder is named after all that the program is built from.
    tag = f"kubernaut-datastorage-prometheus:{program.parent.name}"
    if not docker.has_image(tag):
        with TemporaryDirectory(prefix=".image-", dir=program.parent) as directory:
            context = Path(directory)
            os.link(program, context / program.name)
            (context / "Dockerfile").write_text(_DOCKERFILE)
            docker.build(tag, context)
    return tag
