"""Start and stop a dockerd of our own from the command line."""

import argparse
import sys

from harness.controlplane.errors import ControlPlaneError
from harness.docker.daemon import Daemon

DESCRIPTION = """\
A dockerd for machines where none runs, such as containers and small virtual
machines. `make e2e-kind` starts and stops it by itself."""
EPILOG = """\
examples:
  python -m harness.docker up            start dockerd, unless a Docker answers
  python -m harness.docker down          stop it, and take away what it has left
  python -m harness.docker down --force  also when containers still run in it, and
                                         remove its images

`up` changes nothing where a Docker answers, and `down` nothing where `up` has
started none. `down` removes dockerd's bridges, and the chains and rules in iptables
that are its own, and no others. It sets the forwarding of packets and the number of
inotify instances to what they were before `up`. Images and the layers of builds stay
in ${XDG_CACHE_HOME:-~/.cache}/kubernaut-datastorage/docker for the next `up`, until
they are larger than 15 GiB. Needed
are root and the programs dockerd, runc, iptables and ip:
apt-get install docker.io iptables iproute2."""


def main() -> int:
    options = _parser().parse_args()
    daemon = Daemon()
    try:
        if options.command == "down":
            had_one = daemon.was_started
            daemon.stop(force=options.force)
            print("stopped dockerd" if had_one else "no dockerd was started here", file=sys.stderr)
        elif daemon.start_if_needed():
            print(f"dockerd runs (process {daemon.pid}); its log is {daemon.log}", file=sys.stderr)
        else:
            print("Docker answers already: nothing was started", file=sys.stderr)
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.docker",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start dockerd, unless a Docker answers")
    down = commands.add_parser("down", help="stop the dockerd that `up` has started, and clean up")
    down.add_argument(
        "--force", action="store_true", help="also when containers still run in it; removes images"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
