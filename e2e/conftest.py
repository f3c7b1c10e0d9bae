"""Fixtures for tests on a cluster: our own control plane unless there is --kubeconfig or --context."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from datastorage.settings import Settings
from datastorage.settingsgroups import DatabaseSettings, EmbeddingSettings
from e2e.workbench import MakeWorkbench, Workbench, shipped_account
from harness.bulk import BulkClient
from harness.chart.build import ARCHIVE, chart_files, packed
from harness.controlplane import Cluster, ControlPlane, ControlPlaneError
from harness.controlplane.binaries import kubectl_path
from harness.controlplane.contexts import choose_context
from harness.embeddings import OpenAIService
from harness.helm import Helm, helm_path
from harness.installed import apply_at_rest
from harness.operatorprocess import OperatorProcess
from harness.postgres import PostgresServer, TestDatabase, TestDatabases

# More than a module has tests that share its operator; each gets a namespace that no test has had.
SHARED_NAMESPACES = 16
GUARD_OPT_OUT = "datastorage.kubernaut.io/deletion-guard=disabled"


def pytest_addoption(parser: pytest.Parser) -> None:
    # --kubeconfig itself comes from pytest-kind, with the same meaning.
    group = parser.getgroup("cluster", "cluster under test")
    group.addoption("--context", help="Run on this context of the kubeconfig instead of an own control plane")
    group.addoption(
        "--allow-context",
        action="append",
        default=[],
        metavar="NAME",
        help="Allow a context besides the built-in list; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    try:
        external_cluster(config)
    except ControlPlaneError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.controlplane)


def external_cluster(config: pytest.Config) -> tuple[Path, str] | None:
    """Return the kubeconfig and context to run on, or None for a control plane of our own."""
    option, context = config.getoption("kubeconfig", None), config.getoption("context", None)
    if not option and not context:
        return None
    source = Path(option or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config").expanduser()
    return source, choose_context(source, context, config.getoption("allow_context", []))


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Provide a cluster with the product's CRDs and manifests; no operator runs on it."""
    directory = tmp_path_factory.mktemp("cluster")
    external = external_cluster(pytestconfig)
    if external is not None:
        cluster = Cluster.from_context(*external, kubectl_path(*external), directory)
        apply_at_rest(cluster)
        yield cluster
        return
    # The tests end the API server and etcd, but never the machine: what etcd has acknowledged is with the
    # operating system then, and stays. Tests of crashes have a control plane of their own.
    with ControlPlane(directory, fsync=False) as own:
        own.apply_product()
        yield own


@pytest.fixture
def own_control_plane(control_plane: Cluster) -> ControlPlane:
    """Provide our own control plane, for tests that break the API server; skip them on any other cluster."""
    if not isinstance(control_plane, ControlPlane):
        pytest.skip("the API server of this cluster cannot be restarted")
    return control_plane


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the archive of the Helm chart, as `make chart` writes it."""
    path = tmp_path_factory.mktemp("chart") / ARCHIVE
    path.write_bytes(packed(chart_files()))
    return path


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Provide Helm, on no cluster."""
    return Helm(helm_path(), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def mutating_policies(control_plane: Cluster) -> None:
    """Skip tests of the policy that names authors on a cluster that is older than Kubernetes 1.36."""
    served = control_plane.kubectl("get", "--raw", "/apis/admissionregistration.k8s.io/v1").stdout
    if '"mutatingadmissionpolicies"' not in served:
        pytest.skip("the API server does not serve MutatingAdmissionPolicy")


@pytest.fixture
def make_namespace(control_plane: Cluster) -> Iterator[Callable[[], str]]:
    """Make namespaces, with random names by default.

    They are deleted after the test, which does not wait for that.
    """
    names: list[str] = []

    def make(name: str = "") -> str:
        name = name or _namespace_name()
        control_plane.kubectl("create", "namespace", name)
        names.append(name)
        return name

    yield make
    if names:
        # Records that were never stored would block the deletion of the namespace.
        control_plane.kubectl("label", "namespace", *names, GUARD_OPT_OUT, "--overwrite", check=False)
        control_plane.kubectl("delete", "namespace", *names, "--wait=false", "--ignore-not-found")


def _namespace_name() -> str:
    return f"e2e-{secrets.token_hex(4)}"


@pytest.fixture
def namespace(make_namespace: Callable[[], str]) -> str:
    """Provide a namespace for one test alone."""
    return make_namespace()


@pytest_asyncio.fixture
async def embedder() -> AsyncIterator[OpenAIService]:
    """Provide an embedding service in this process."""
    service = OpenAIService(16)
    await service.start()
    yield service
    await service.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Provide a PostgreSQL for the session. A test may stop it if it starts it again."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> TestDatabases:
    """Provide databases on it, cloned from a migrated template."""
    made = TestDatabases(postgres.owner_url)
    made.prepare()
    return made


@pytest.fixture(scope="session")
def operator_kubeconfig(control_plane: Cluster) -> Path:
    """Provide a kubeconfig of the shipped ServiceAccount, whose token lasts for the session."""
    return shipped_account(control_plane)


@pytest_asyncio.fixture
async def make_workbench(
    control_plane: Cluster,
    operator_kubeconfig: Path,
    make_namespace: Callable[[], str],
    databases: TestDatabases,
    tmp_path: Path,
) -> AsyncIterator[MakeWorkbench]:
    """Make workbenches, each with a namespace and a database of its own."""
    async with AsyncExitStack() as stack:

        async def make() -> Workbench:
            database = await databases.clone()
            stack.push_async_callback(databases.drop, database)
            namespace = make_namespace()
            bench = Workbench(
                cluster=control_plane,
                kubeconfig=operator_kubeconfig,
                namespace=namespace,
                owner_url=database.owner_url,
                database_url=database.service_url,
                directory=tmp_path / namespace,
            )
            stack.push_async_callback(bench.close)
            return bench

        yield make


@pytest.fixture
def workbench(request: pytest.FixtureRequest) -> Workbench:
    """Provide a namespace, a database, and operators that store the namespace's objects in the database.

    With the mark ``shared_operator``, the namespace is the test's own, and the database and the running
    operator are those of all tests in the module with the mark.
    """
    is_shared = request.node.get_closest_marker("shared_operator") is not None
    made: Workbench = request.getfixturevalue("shared_workbench" if is_shared else "own_workbench")
    return made


@pytest_asyncio.fixture
async def own_workbench(make_workbench: MakeWorkbench) -> Workbench:
    """Provide a workbench that shares nothing."""
    return await make_workbench()


@dataclass(frozen=True)
class SharedOperator:
    """An operator with its database, and the names of the namespaces that it looks after."""

    process: OperatorProcess
    database: TestDatabase
    namespaces: Iterator[str]


@pytest.fixture(scope="module")
def shared_operator(
    operator_kubeconfig: Path, databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedOperator]:
    """Provide an operator with the default settings for the tests of a module that have the mark."""
    database = asyncio.run(databases.clone())
    names = [_namespace_name() for _ in range(SHARED_NAMESPACES)]
    directory = tmp_path_factory.mktemp("shared")
    settings = {"DATASTORAGE_NAMESPACES": ",".join(names)}
    with OperatorProcess(operator_kubeconfig, database.service_url, directory, settings) as process:
        yield SharedOperator(process, database, iter(names))
    asyncio.run(databases.drop(database))


@pytest_asyncio.fixture
async def shared_workbench(
    control_plane: Cluster,
    operator_kubeconfig: Path,
    shared_operator: SharedOperator,
    make_namespace: Callable[[str], str],
    tmp_path: Path,
) -> AsyncIterator[Workbench]:
    """Provide a workbench that has nothing of its own but a namespace."""
    bench = Workbench(
        cluster=control_plane,
        kubeconfig=operator_kubeconfig,
        namespace=make_namespace(next(shared_operator.namespaces)),
        owner_url=shared_operator.database.owner_url,
        database_url=shared_operator.database.service_url,
        directory=tmp_path,
        shared=shared_operator.process,
    )
    # Another test of the module may have stopped PostgreSQL for a while.
    await asyncio.to_thread(shared_operator.process.wait_ready)
    yield bench
    await bench.close()


@pytest_asyncio.fixture
async def client(control_plane: Cluster) -> AsyncIterator[BulkClient]:
    """Provide a client with the administrator's rights, for many requests."""
    async with BulkClient.connect(control_plane.admin_kubeconfig) as made:
        yield made


@pytest.fixture
def settings(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an operator in this process, under the shipped ServiceAccount."""
    monkeypatch.setenv("KUBECONFIG", str(workbench.kubeconfig))
    return Settings(
        database=DatabaseSettings(url=SecretStr(workbench.database_url)),
        embedding=EmbeddingSettings(provider="none"),
        namespaces=(workbench.namespace,),
        sweep_interval_seconds=5,
    )
