"""The command line of `python -m e2e.kind`, which `make e2e-kind` runs."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Source = Literal["auto", "upstream", "built"]
Part = Literal["installation", "installed", "processes"]
PARTS: tuple[Part, ...] = get_args(Part)
NAME = "datastorage-e2e"

DESCRIPTION = """\
Install the product on a kind cluster as users do, and run the tests there.

The parts:
  installation  a cluster of one control plane and two workers; kubectl apply -k
                manifests/overlays/development; every replica Ready, on both workers;
                one record stored and cleared
  installed     the tests in e2e/installed, which drive the operators in those pods,
                and break them
  processes     the other tests in e2e, with operators of their own as processes on this
                machine, beside a cluster of one node, NAME-processes, at the same time.
                Left out are those that e2e/kind/suites.py lists with the reason: no
                cluster changes them
Afterwards everything is removed: the clusters, their network, and dockerd if it was
started for this."""
EPILOG = """\
examples:
  make e2e-kind                                everything, and removed again
  make e2e-kind ARGS=--keep                    leave the cluster for kubectl; the next run uses it again
  make e2e-kind ARGS="--keep --until installation"   a cluster with the product, to try things on
  make e2e-kind ARGS="--keep --only installed" PYTEST_ARGS="-k drain"
  make e2e-kind ARGS="--only processes" PYTEST_ARGS="-k deletion_guard"
  make e2e-kind ARGS=--remove                  remove what --keep has left
  make e2e-kind ARGS="--node-image kindest/node:v1.35.8"

Docker is needed; where none answers, dockerd is started (see `python -m harness.docker
--help`). Where Docker can pull from registries, the node's image is kindest/node and the
databases' images are the ones that the overlay names. Otherwise all are built, once per
machine, from Debian packages, Go modules and Python wheels (see `make node-image`).
--images forces either. What pytest says is printed as it is; the kubeconfig, and after
a failure the logs of the nodes and pods, are in .pytest-kind/NAME and
.pytest-kind/NAME-processes."""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    name: str
    images: Source
    node_image: str | None
    kind_bin: Path | None
    build: bool
    keep: bool
    remove: bool
    parts: tuple[Part, ...]
    every: bool
    pytest_arguments: tuple[str, ...]


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; ends the process with a message where it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.kind_bin and not given.kind_bin.is_file():
        parser.error(f"--kind-bin: {given.kind_bin} is not a file")
    parts = PARTS
    if given.until:
        parts = PARTS[: PARTS.index(given.until) + 1]
    if given.only:
        wanted = {*given.only, *(("installation",) if "installed" in given.only else ())}
        parts = tuple(part for part in PARTS if part in wanted)
    return Options(
        name=given.name,
        images=given.images,
        node_image=given.node_image,
        kind_bin=given.kind_bin.resolve() if given.kind_bin else None,
        build=given.build,
        keep=given.keep,
        remove=given.remove,
        parts=parts,
        every=given.every,
        pytest_arguments=tuple(given.pytest_arguments),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.kind",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the installation, and use it again the next time"
    )
    parser.add_argument("--remove", action="store_true", help="remove a kept cluster, and do nothing more")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--until", choices=PARTS, metavar="PART", help="stop after this part")
    which.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        metavar="PART",
        help="do this part alone, with the installation if it needs one; may be repeated",
    )
    parser.add_argument(
        "--images",
        choices=get_args(Source),
        default="auto",
        help="where the images of nodes and databases come from (default: upstream where Docker can pull)",
    )
    parser.add_argument("--node-image", metavar="IMAGE", help="another image for the nodes")
    # The kind on PATH is not used: a node image belongs to a release of kind.
    parser.add_argument(
        "--kind-bin",
        type=Path,
        metavar="PATH",
        help="kind; default: the release that fits, downloaded or built",
    )
    parser.add_argument(
        "--no-build", dest="build", action="store_false", help="take the product's image that Docker has"
    )
    parser.add_argument(
        "--every-test",
        dest="every",
        action="store_true",
        help="in the part processes, also those tests that a kind cluster changes nothing for (minutes more)",
    )
    parser.add_argument("--name", default=NAME, help="the cluster's name (default: %(default)s)")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed to pytest")
    return parser
