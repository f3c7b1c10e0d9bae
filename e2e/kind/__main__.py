"""Installs the product on a kind cluster, and runs the tests there; `--help` says what can be chosen."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from e2e.kind import suites
from e2e.kind.cluster import PRODUCT_IMAGE, Kind, build_product, docker_daemon, uninterrupted
from e2e.kind.installation import Installer
from e2e.kind.nodes import choose, database_images
from e2e.kind.options import Options, parse
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.cluster import REPOSITORY
from harness.controlplane.progress import say
from harness.docker import Daemon, Docker, Machine
from harness.installed import OVERLAY


def main() -> int:
    options = parse()
    os.chdir(REPOSITORY)  # pytest-kind keeps its files in the working directory
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    run = Run()
    try:
        docker = Docker()
        kind = Kind(options.name, docker)
        with kind.claimed():
            if options.remove:
                _remove(kind, docker)
                return 0
            with docker_daemon(options.name, keep=options.keep):
                return _main(options, docker, kind, run)
    except ControlPlaneError as error:
        say(f"e2e-kind: {error}")
        return 1
    except KeyboardInterrupt:
        say("e2e-kind: interrupted")
        return 130
    finally:
        run.summarize()


class Run:
    """Says what is being done, and at the end how long each part took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        say(f"e2e-kind: {what}")
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] = time.monotonic() - started

    def summarize(self) -> None:
        if self._seconds:
            say("\n".join(f"e2e-kind: {seconds:6.0f} s  {what}" for what, seconds in self._seconds.items()))
            say(f"e2e-kind: {sum(self._seconds.values()):6.0f} s  together")


def _remove(kind: Kind, docker: Docker) -> None:
    if not docker.answers():
        Daemon().stop(force=True)
        say("e2e-kind: no Docker answers, so no cluster is left")
        return
    with docker_daemon(kind.name, keep=False), uninterrupted():
        kind.remove()


def _main(options: Options, docker: Docker, kind: Kind, run: Run) -> int:
    trouble = Machine().inotify_trouble()
    if trouble:
        say(f"e2e-kind: {trouble}")
    with run.part("having the images of nodes and databases"):
        chosen = choose(docker, options.images, options.node_image)
        if options.kind_bin:
            chosen = chosen.with_kind(options.kind_bin)
    if options.build:
        with run.part("building the product's image"):
            build_product(chosen)
    try:
        with run.part("creating the cluster"):
            cluster = kind.create(chosen)
            kind.load(PRODUCT_IMAGE, PRODUCT_IMAGE)
            for deployment, name in database_images(cluster, OVERLAY).items():
                if deployment in chosen.databases:
                    kind.load(chosen.databases[deployment], name)
        return _try(options, kind, cluster, run)
    finally:
        if options.keep:
            say(f"e2e-kind: kept: export KUBECONFIG={kind.kubeconfig}; kubectl is {kind.kubectl}")
        else:
            with run.part("removing the cluster"), uninterrupted():
                kind.remove()


def _try(options: Options, kind: Kind, cluster: Cluster, run: Run) -> int:
    installer = Installer(cluster)
    statuses: list[int | None] = []
    try:
        with run.part("installing the product, and following one record"):
            installer.install()
            installer.follow_one_record()
        if "installed" in options.parts:
            with run.part("the tests of the installed operators"):
                statuses.append(suites.run_installed(kind, options.pytest_arguments))
        if "cluster" in options.parts:
            with run.part("the tests with operators of their own"):
                installer.stop()
                statuses.append(suites.run_cluster(kind, options.pytest_arguments, every=options.every))
        if options.keep and "cluster" in options.parts:
            with run.part("installing the product again"):
                installer.install()
    except ControlPlaneError:
        kind.export_logs()
        raise
    status = suites.status_of(statuses)
    if any(statuses):
        kind.export_logs()
    return status


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Make an end from outside like Ctrl-C: everything is removed on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
