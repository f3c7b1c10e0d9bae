"""Fixtures for tests of an installation.

    pytest e2e/installed --kubeconfig=FILE --context=NAME

The cluster has to be able to run the installation (``manifests/overlays/development``): it has the image, and
those of PostgreSQL and Redis. Where the nodes are containers of this machine's Docker, as those of kind are,
the tests also stop nodes and kill processes on them; elsewhere these tests are skipped.
"""

import json
import os
import secrets
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from e2e.conftest import external_cluster
from e2e.installed.clientpod import ClientPod
from e2e.installed.counted import Counting, InstalledPostgres
from e2e.installed.installation import Installation, image_of
from e2e.installed.nodes import Nodes
from e2e.workbench import Workbench
from harness.bulk import BulkClient
from harness.controlplane import Cluster, ControlPlaneError
from harness.controlplane.binaries import kubectl_path
from harness.installed import DEPLOYMENT, OVERLAY
from harness.manifests import audit_record

FOLDER: Final = Path(__file__).parent
_POLICIES: Final = OVERLAY / "networkpolicy"
TEST_SECONDS: Final = 900
_READY_SECONDS: Final = 600.0
"""Before the first test the images may still be on their way."""

Say = Callable[[str], None]

_said = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_said] = []
    if _is_named(config) and external_cluster(config) is None:
        raise pytest.UsageError(
            "e2e/installed needs a cluster with nodes: name one with --kubeconfig and --context, "
            "or run `make e2e-kind`, which makes one"
        )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out unless they are named on the command line.

    Our own control plane has no nodes, so no pod runs on it. And where the other tests of ``e2e`` run on a
    given cluster, they start operators of their own, beside which no installed operator may run.
    """
    return None if _is_named(config) or FOLDER not in (collection_path, *collection_path.parents) else True


def _is_named(config: pytest.Config) -> bool:
    named = [(config.invocation_params.dir / each.partition("::")[0]).resolve() for each in config.args]
    return any(FOLDER in (path, *path.parents) for path in named)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The memory at rest is that of pods which have just been installed. Others would have to be restarted.
    items.sort(key=lambda item: item.path != FOLDER / "test_memory.py")
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the state of the installation with each failure, as it is at that moment."""
    report = yield
    installed = getattr(item, "funcargs", {}).get("installation")
    if report.failed and call.when == "call" and isinstance(installed, Installation):
        report.sections.append(("the installation", installed.describe()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was measured: only the memory has bounds, because the rest depends on the machine."""
    if config.stash[_said]:
        terminalreporter.section("measured on the installation")
        for line in config.stash[_said]:
            terminalreporter.write_line(line)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Provide a function that prints a line at the end of the run."""
    return lambda line: request.config.stash[_said].append(f"{request.node.name}: {line}")


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Provide the cluster, with the installation as users get it."""
    external = external_cluster(pytestconfig)
    assert external is not None, "pytest_configure has checked it"
    cluster = Cluster.from_context(*external, kubectl_path(), tmp_path_factory.mktemp("cluster"))
    cluster.apply_product(OVERLAY)
    return cluster


@pytest_asyncio.fixture
async def installation(control_plane: Cluster, client: BulkClient) -> Installation:
    """Provide the installation, complete again after the test before."""
    installed = Installation(control_plane, client)
    try:
        await installed.wait_complete(_READY_SECONDS)
    except (AssertionError, ControlPlaneError) as error:
        error.add_note(installed.describe())
        raise
    return installed


@pytest_asyncio.fixture
async def spread(installation: Installation) -> None:
    """Have the pods on several nodes again, where the test before has drained one.

    They do not move back by themselves, and most tests do not mind.
    """
    if len({each.node for each in await installation.ready_pods()}) == 1:
        installation.kubectl("rollout", "restart", DEPLOYMENT)
        await installation.wait_complete()


@pytest.fixture
def nodes(control_plane: Cluster) -> Nodes:
    """Provide the nodes; skip the test where they can't be stopped."""
    found = Nodes(control_plane)
    if missing := found.missing():
        pytest.skip(missing)
    return found


@pytest.fixture
def postgres(installation: Installation) -> InstalledPostgres:  # in place of a server of this machine
    """Provide the PostgreSQL of the installation."""
    return InstalledPostgres(installation)


@pytest.fixture
def workbench(installation: Installation, namespace: str, tmp_path: Path) -> Workbench:
    """Provide a namespace, and the helpers of the other end-to-end tests for it."""
    return Workbench(
        cluster=installation.cluster,
        kubeconfig=installation.cluster.admin_kubeconfig,
        namespace=namespace,
        owner_url="",
        database_url="",
        directory=tmp_path,
    )


@pytest.fixture
def counting(workbench: Workbench, client: BulkClient, postgres: InstalledPostgres) -> Counting:
    """Provide what creates records and counts them in the cluster and in PostgreSQL."""
    return Counting(workbench, client, postgres)


@pytest.fixture
def policies(tmp_path: Path, installation: Installation) -> Iterator[Path]:
    """Provide a folder for ``kubectl apply -k`` with the policies alone."""
    kustomization = {"components": [os.path.relpath(_POLICIES, tmp_path.resolve())]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    yield tmp_path
    installation.cluster.kubectl("delete", "-k", str(tmp_path), "--ignore-not-found")


@pytest.fixture(scope="session")
def client_pod(control_plane: Cluster) -> Iterator[ClientPod]:
    """Provide a pod in a namespace of its own that may store and read everywhere."""
    namespace = f"e2e-client-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", namespace)
    bindings = []
    try:
        pod = ClientPod(control_plane, namespace, "client", image_of(control_plane))
        pod.start()
        for role in ("datastorage-writer", "datastorage-archive-reader"):
            name = f"{namespace}-{role}"
            control_plane.kubectl(
                *("create", "clusterrolebinding", name, f"--clusterrole={role}"),
                f"--serviceaccount={namespace}:{pod.name}",
            )
            bindings.append(name)
        yield pod
    finally:
        for name in bindings:
            control_plane.kubectl("delete", "clusterrolebinding", name, check=False)
        control_plane.kubectl("delete", "namespace", namespace, "--wait=false", check=False)


@pytest.fixture(scope="session")
def read_paths(client_pod: ClientPod) -> Sequence[str]:
    """Provide paths below /api/v1 that have answers: a record stored through the Service, and a list."""
    uid = str(uuid.uuid4())
    record = audit_record("read-again")
    record["metadata"] |= {"namespace": client_pod.namespace, "uid": uid}
    client_pod.datastorage("store", "-f", "-", text=json.dumps(record))
    return f"/query/records/{uid}", f"/query/records?namespace={client_pod.namespace}&pageSize=10"
