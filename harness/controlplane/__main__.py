"""Build, run and find the control plane from the command line."""

import argparse
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness.controlplane.binaries import ensure_binaries
from harness.controlplane.controlplane import ControlPlane
from harness.controlplane.errors import ControlPlaneError

MARKER = ".datastorage-controlplane"  # marks a folder that is ours to remove; holds the lock
DESCRIPTION = """\
A real Kubernetes control plane on this machine: etcd, kube-apiserver and
kube-controller-manager with TLS and RBAC, without nodes (Pods stay Pending)."""
EPILOG = """\
examples:
  python -m harness.controlplane build        build the programs, once per machine
  python -m harness.controlplane up           run it until Ctrl-C
  export KUBECONFIG=$(python -m harness.controlplane kubeconfig)

The programs come from KUBEBUILDER_ASSETS if that is set, otherwise from
${XDG_CACHE_HOME:-~/.cache}/kubernaut-datastorage/controlplane, where `build`
puts them. Building takes about 7 minutes on 2 cores, needs the network, and fills
about 4 GB of caches, most of them Go's own."""


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.command == "build":
            return _build()
        if arguments.command == "up":
            return _up(arguments.directory, keep=arguments.keep, apply=arguments.apply)
        return _kubeconfig(arguments.directory)
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.controlplane",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="find or build the programs, and print their paths")
    up = commands.add_parser("up", help="run a control plane in the foreground until Ctrl-C or SIGTERM")
    up.add_argument("--keep", action="store_true", help="keep its data and credentials for the next `up`")
    up.add_argument("--apply", action="store_true", help="apply crds/ and manifests/base once it is up")
    where = commands.add_parser("kubeconfig", help="print the KUBECONFIG of the control plane that is up")
    for command in (up, where):
        command.add_argument(
            "--directory",
            type=Path,
            default=_default_directory(),
            help="where it keeps everything (default: %(default)s)",
        )
    return parser


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "kubernaut-datastorage" / "controlplane"


def _build() -> int:
    binaries = ensure_binaries()
    for path in (binaries.etcd, binaries.kube_apiserver, binaries.kube_controller_manager, binaries.kubectl):
        print(path)
    return 0


def _up(directory: Path, *, keep: bool, apply: bool) -> int:
    with _claimed(directory, keep=keep), _stop_signals() as stopped:
        print("Starting the control plane, about 5 s", file=sys.stderr, flush=True)
        with ControlPlane(directory) as control_plane:
            if apply:
                control_plane.apply_product()
            print(f"export KUBECONFIG={control_plane.admin_kubeconfig}", flush=True)
            print(f"kubectl is {control_plane.kubectl_path}; Ctrl-C stops", file=sys.stderr, flush=True)
            while not stopped.wait(1.0):
                control_plane.check()
    return 0


def _kubeconfig(directory: Path) -> int:
    path = directory.absolute() / "admin.kubeconfig"
    if not (_is_claimed(directory) and path.exists()):
        raise ControlPlaneError(f"no control plane is up in {directory}")
    print(path)
    return 0


def _is_claimed(directory: Path) -> bool:
    try:
        with (directory / MARKER).open() as marker:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _claimed(directory: Path, *, keep: bool) -> Iterator[None]:
    """Hold a folder for one control plane, and remove it afterwards unless it is to be kept."""
    marker = directory / MARKER
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        raise ControlPlaneError(f"{directory} contains other files: name an empty folder")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ControlPlaneError(f"a control plane is up in {directory} already") from error
        try:
            yield
        finally:
            if not keep:
                shutil.rmtree(directory)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event. It counts once everything runs, so that the stop is orderly."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
