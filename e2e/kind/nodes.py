"""Chooses the images of a cluster: upstream ones where Docker can pull, otherwise those built here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from e2e.kind.options import Source
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.progress import say
from harness.docker import Docker
from harness.nodeimage import ensure_images, kind_path

# The newest node image of the Kubernetes version that harness/controlplane builds, as published with the
# release of kind that harness/nodeimage/go/go.mod names. Change them together.
UPSTREAM = "kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"
DATABASES = ("postgres", "redis")  # the Deployments of the overlay whose images can be built


@dataclass(frozen=True)
class Chosen:
    """Which images a cluster gets."""

    node: str
    kind: Path | None
    """The kind that fits the node's image; None: pytest-kind downloads it."""
    base: str | None
    """What the product's image is built on; None: what its Dockerfile names."""
    databases: Mapping[str, str]
    """The tags in Docker by Deployment that are loaded into the nodes; none: the nodes pull them."""

    def with_kind(self, kind: Path) -> "Chosen":
        return replace(self, kind=kind)


def choose(docker: Docker, source: Source, node_image: str | None) -> Chosen:
    """Choose, and have everything in Docker: pulled, or built.

    Raises:
        ControlPlaneError: an image can neither be pulled nor built.
    """
    if node_image and (reason := _missing(docker, node_image)):
        raise ControlPlaneError(
            f"--node-image {node_image} is neither in Docker nor can it be pulled: {reason}"
        )
    if source != "built":
        reason = _missing(docker, UPSTREAM)
        if reason is None:
            return Chosen(node=node_image or UPSTREAM, kind=None, base=None, databases={})
        if source == "upstream":
            raise ControlPlaneError(f"cannot pull {UPSTREAM}: {reason}; --images built builds one")
        say(f"Docker cannot pull {UPSTREAM}, so images built here are used ({reason})")
    images = ensure_images(docker)
    return Chosen(
        node=node_image or images.node.tag,
        kind=kind_path(),
        base=images.base.tag,
        databases={"postgres": images.postgres.tag, "redis": images.redis.tag},
    )


def database_images(cluster: Cluster, overlay: Path) -> dict[str, str]:
    """Return the images that the overlay names, by Deployment."""
    documents = yaml.safe_load_all(cluster.kubectl("kustomize", str(overlay)).stdout)
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]["containers"][0]["image"]
        for document in documents
        if document["kind"] in {"Deployment", "StatefulSet"} and document["metadata"]["name"] in DATABASES
    }


def _missing(docker: Docker, image: str) -> str | None:
    """Return None if Docker has an image, or has it now, and otherwise why it can't be pulled."""
    if docker.has_image(image):
        return None
    say(f"Pulling {image}")
    return docker.pull(image)
