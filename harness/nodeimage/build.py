"""Brings every image into the cache folder and into Docker."""

from dataclasses import dataclass
from pathlib import Path

from harness.controlplane.progress import Steps, say
from harness.docker import Docker
from harness.nodeimage import databases, debian, node, programs
from harness.nodeimage.artefacts import Artefact, remove_unused


@dataclass(frozen=True)
class Images:
    """The images for a cluster without a registry."""

    node: Artefact
    base: Artefact
    postgres: Artefact
    redis: Artefact

    @property
    def all(self) -> tuple[Artefact, ...]:
        # The small ones first: the product's image can be built while the node's is not there yet.
        return (self.base, self.postgres, self.redis, self.node)


def images() -> Images:
    """Return the images for the present state of their inputs, whether they are built or not."""
    base = databases.base()
    return Images(
        node=node.artefact(),
        base=base,
        postgres=databases.postgres(base),
        redis=databases.redis(base),
    )


def ensure_images(docker: Docker) -> Images:
    """Have the images in the cache folder and in Docker, and build those that are missing.

    Raises:
        BuildError: something that the build needs is missing, or a build failed.
        DockerError: Docker refused a command.
    """
    made = images()
    missing = [artefact for artefact in made.all if not artefact.archive.exists()]
    if missing:
        debian.check_needs()
        say(f"Building the images {', '.join(artefact.tag for artefact in missing)}, once per machine")
    steps = Steps(sum(artefact.steps for artefact in missing))
    for artefact in made.all:
        artefact.ensure(docker, steps)
    docker.run("tag", made.base.tag, databases.BASE_ALIAS)
    for entry in remove_unused([*(artefact.archive for artefact in made.all), programs.tools_folder()]):
        say(f"Removed {entry}, which nothing has used for two weeks")
    return made


def kind_path() -> Path:
    """Return kind, of the release that the node's image is built for; it is built if it is missing."""
    return programs.ensure_tools(programs.KIND_TOOL)[programs.KIND_TOOL.name]
