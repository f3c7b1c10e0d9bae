"""The few commands of the `docker` program that the node image and the tests on kind need."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.docker.errors import DockerError
from harness.docker.pipes import pipe


@dataclass(frozen=True)
class Limits:
    """How long commands may take, in seconds."""

    answer: float = 20.0  # a daemon that is up answers `docker info` in less than one
    command: float = 300.0  # the longest command makes an image of 1 GB
    transfer: float = 1800.0  # an image of 1 GB is pulled over a slow network


class Docker:
    """Runs `docker`, with whatever daemon the environment names."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits

    def run(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 -- named as in subprocess.run
        check: bool = True,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with `input` and return its output.

        Raises:
            DockerError: it failed (unless `check` is false), took too long, or `docker` is missing.
        """
        command = " ".join(("docker", *arguments[:2]))
        timeout = self._limits.command if timeout is None else timeout
        try:
            done = subprocess.run(
                ["docker", *arguments],
                input=input or "", capture_output=True, text=True, check=False, timeout=timeout,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise DockerError(
                "docker is missing: install Docker (Debian: apt-get install docker.io)"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DockerError(f"{command} took more than {timeout:.0f} s: is dockerd overloaded?") from error
        if check and done.returncode != 0:
            raise DockerError(f"{command} failed (exit {done.returncode}): {done.stderr.strip()}")
        return done

    def answers(self) -> bool:
        """Return whether there is a client, and a daemon that answers it."""
        if not shutil.which("docker"):
            return False
        timeout = self._limits.answer
        return self.run("info", "--format={{.ID}}", check=False, timeout=timeout).returncode == 0

    def has_image(self, tag: str) -> bool:
        return self.run("image", "inspect", "--format={{.Id}}", tag, check=False).returncode == 0

    def pull(self, image: str) -> str | None:
        """Pull an image; return None, or why it can't be had."""
        try:
            self.run("pull", "--quiet", image, timeout=self._limits.transfer)
        except DockerError as error:
            return str(error)
        return None

    def build(
        self,
        tag: str,
        context: Path,
        *,
        dockerfile: Path | None = None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        """Build the Dockerfile of a folder, or another one, with build arguments."""
        given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        file = [f"--file={dockerfile}"] if dockerfile else []
        self.run("build", "--quiet", f"--tag={tag}", *file, *given, str(context))

    def import_archive(self, archive: Path, tag: str) -> None:
        """Make an image of one layer from a tar archive of a root filesystem."""
        self.run("import", str(archive), tag)

    def save(self, tags: Sequence[str], archive: Path) -> None:
        """Write images into a compressed archive."""
        self._pipe(["docker", "save", *tags], ["zstd", "-T0", "-3", "-q", "-f", "-o", str(archive)])

    def load(self, archive: Path) -> None:
        """Load the images of such an archive."""
        self._pipe(["zstd", "-dcq", str(archive)], ["docker", "load", "--quiet"])

    def copy_images(self, tags: Sequence[str], container: str) -> None:
        """Copy images into the containerd of a node, pinned, so that kubelet never removes them."""
        importing = "ctr --namespace=k8s.io images import --all-platforms --no-unpack --digests"
        pinned = "--label=io.cri-containerd.pinned=pinned"
        self._pipe(
            ["docker", "save", *tags],
            ["docker", "exec", "--interactive", container, *importing.split(), pinned, "-"],
        )

    def _pipe(self, first: Sequence[str], second: Sequence[str]) -> None:
        pipe(first, second, self._limits.transfer)
