"""Installs the product on a kind cluster, and runs the tests there; `--help` says what can be chosen."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from e2e.kind import suites
from e2e.kind.cluster import PROCESSES, PRODUCT_IMAGE, Kind, building_product, docker_daemon, uninterrupted
from e2e.kind.installation import Installer
from e2e.kind.nodes import Chosen, choose, database_images
from e2e.kind.options import Options, parse
from harness import REPOSITORY
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.progress import Running, say
from harness.docker import Daemon, Docker, Machine
from harness.installed import OVERLAY
from harness.prometheus.image import ensure_image


def main() -> int:
    options = parse()
    os.chdir(REPOSITORY)  # pytest-kind keeps its files in the working directory
    # SIGINT, too: a shell lets a command in its background ignore it, and the tests would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    run = Run()
    try:
        docker = Docker()
        clusters = Clusters.named(options.name, docker)
        with clusters.claimed():
            if options.remove:
                _remove(clusters, docker)
                return 0
            with docker_daemon(keep=options.keep):
                return _main(options, docker, clusters, run)
    except ControlPlaneError as error:
        say(f"e2e-kind: {error}")
        return 1
    except KeyboardInterrupt:
        say("e2e-kind: interrupted")
        return 130
    finally:
        run.summarize()


@dataclass(frozen=True)
class Clusters:
    """The clusters of a run; each of them exists only if its part was asked for."""

    installation: Kind
    """The product is installed on it, as users do it."""
    processes: Kind
    """Operators run as processes beside it. The installed ones would process their objects as well."""

    @classmethod
    def named(cls, name: str, docker: Docker) -> "Clusters":
        return cls(Kind(name, docker), Kind(f"{name}-processes", docker, PROCESSES))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        with self.installation.claimed(), self.processes.claimed():
            yield


class Run:
    """Says what is being done, and at the end how long each part took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
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
            say(f"e2e-kind: {time.monotonic() - self._began:6.0f} s  together")


def _remove(clusters: Clusters, docker: Docker) -> None:
    if not docker.answers():
        Daemon().stop(force=True)
        say("e2e-kind: no Docker answers, so no cluster is left")
        return
    with docker_daemon(keep=False), uninterrupted():
        clusters.installation.remove()
        clusters.processes.remove()


def _main(options: Options, docker: Docker, clusters: Clusters, run: Run) -> int:
    trouble = Machine().inotify_trouble()
    if trouble:
        say(f"e2e-kind: {trouble}")
    with run.part("having the images of nodes and databases"):
        chosen = choose(docker, options.images, options.node_image)
        if options.kind_bin:
            chosen = chosen.with_kind(options.kind_bin)
    statuses: list[int | None] = []
    with ExitStack() as stack:
        # The image is built, and these tests run, beside what follows.
        product = None
        if "installation" in options.parts and options.build:
            product = stack.enter_context(building_product(chosen))
        if "installed" in options.parts:
            with run.part("having Prometheus, for a test"):
                ensure_image(docker)
        processes = None
        if "processes" in options.parts:
            processes = stack.enter_context(_process_tests(options, clusters.processes, chosen, run))
        if "installation" in options.parts:
            statuses += _installation(options, clusters.installation, chosen, run, product)
        if processes is not None:
            with run.part("waiting for the tests with operators as processes"):
                statuses.append(processes.wait())
            if statuses[-1]:
                clusters.processes.export_logs()
    return suites.status_of(statuses)


@contextmanager
def _process_tests(options: Options, kind: Kind, chosen: Chosen, run: Run) -> Iterator[suites.Tests]:
    try:
        with run.part("creating the cluster for operators as processes"):
            kind.create(chosen)
        with suites.process_tests(kind, options.pytest_arguments, every=options.every) as tests:
            yield tests
    finally:
        with run.part("removing the cluster for operators as processes"), uninterrupted():
            kind.remove()


def _installation(
    options: Options, kind: Kind, chosen: Chosen, run: Run, product: Running | None
) -> list[int | None]:
    """Install the product, and run its tests; return their statuses."""
    try:
        with run.part("creating the cluster"):
            cluster = kind.create(chosen)
        if product is not None:
            with run.part("waiting for the product's image"):
                product.wait()
        with run.part("loading the images into the nodes"):
            databases = {
                name: chosen.databases[deployment]
                for deployment, name in database_images(cluster, OVERLAY).items()
                if deployment in chosen.databases
            }
            # On the control plane runs a client of the tests, and no database.
            kind.load({PRODUCT_IMAGE: PRODUCT_IMAGE}, databases)
        return _try(options, kind, cluster, run)
    finally:
        if options.keep:
            say(f"e2e-kind: kept: export KUBECONFIG={kind.kubeconfig}; kubectl is {kind.kubectl}")
        else:
            with run.part("removing the cluster"), uninterrupted():
                kind.remove()


def _try(options: Options, kind: Kind, cluster: Cluster, run: Run) -> list[int | None]:
    installer = Installer(cluster)
    try:
        with run.part("installing the product, and following one record"):
            installer.install()
            installer.follow_one_record()
        if "installed" not in options.parts:
            return []
        with (
            run.part("the tests of the installed operators"),
            suites.installed_tests(kind, options.pytest_arguments) as tests,
        ):
            status = tests.wait()
    except ControlPlaneError:
        kind.export_logs()
        raise
    if status:
        kind.export_logs()
    return [status]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Make an end from outside like Ctrl-C: everything is removed on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
