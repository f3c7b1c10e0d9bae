"""Build the images for a kind cluster from the command line: `make node-image`."""

import argparse
import sys

from harness.controlplane.errors import ControlPlaneError
from harness.docker import Daemon, Docker
from harness.nodeimage import debian
from harness.nodeimage.build import ensure_images, images

DESCRIPTION = """\
The images for a kind cluster on a machine that reaches no image registry: a node
for kind with kube-router as its network, PostgreSQL with pgvector, Redis, and the
Debian that the product's image is built on. Everything comes from Debian packages,
Go modules and Python wheels."""
EPILOG = """\
examples:
  python -m harness.nodeimage build   build what is missing; nothing is done twice
  python -m harness.nodeimage list    the images, and whether they are built

They are kept in ${XDG_CACHE_HOME:-~/.cache}/kubernaut-datastorage/node-image, named
after a hash of what goes into them, and are built again when that changes; what
nothing has used for two weeks is removed. Needed are root, Docker, Go (or pip, which
fetches it) and the Debian packages debootstrap and zstd. DEBIAN_MIRROR names another
mirror. Where no Docker answers, dockerd is started for the build (see
`python -m harness.docker --help`)."""


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.command == "build":
            _build()
        else:
            for artefact in images().all:
                state = "built" if artefact.archive.exists() else "missing"
                print(f"{artefact.tag}  {state}  {artefact.archive}")
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _build() -> None:
    daemon = Daemon()
    if any(not artefact.archive.exists() for artefact in images().all):
        debian.check_needs(daemon.missing_packages())
    started = daemon.start_if_needed()
    try:
        for artefact in ensure_images(Docker()).all:
            print(artefact.tag)
    finally:
        if started:
            daemon.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.nodeimage",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build the images that are missing, and print their tags")
    commands.add_parser("list", help="print the images, and whether they are built")
    return parser


if __name__ == "__main__":
    sys.exit(main())
