"""The few commands of the `docker` program that the node image and the tests on kind need."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.docker.errors import DockerError

ANSWER_TIMEOUT = 20.0  # seconds; a daemon that is up answers `docker info` in less than one
COMMAND_TIMEOUT = 300.0  # seconds; the longest command loads an image of 1 GB


class Docker:
    """Runs `docker`, with whatever daemon the environment names."""

    def run(
        self, *arguments: str, check: bool = True, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return its output.

        Raises:
            DockerError: it failed (unless `check` is false), took too long, or `docker` is missing.
        """
        command = " ".join(("docker", *arguments[:2]))
        try:
            done = subprocess.run(
                ["docker", *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout,
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
        return self.run("info", "--format={{.ID}}", check=False, timeout=ANSWER_TIMEOUT).returncode == 0

    def has_image(self, tag: str) -> bool:
        return self.run("image", "inspect", "--format={{.Id}}", tag, check=False).returncode == 0

    def pull(self, image: str) -> str | None:
        """Pull an image; return None, or why it can't be had."""
        done = subprocess.run(
            ["docker", "pull", "--quiet", image], capture_output=True, text=True, check=False
        )
        return None if done.returncode == 0 else done.stderr.strip()

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
        with (
            subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as source,
            subprocess.Popen(
                second, stdin=source.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as sink,
        ):
            if source.stdout is not None:
                source.stdout.close()  # the sink has it; `source` ends when the sink does
            _, complaint = sink.communicate()
            source.wait()
            if sink.returncode != 0 or source.returncode != 0:
                words = complaint.decode(errors="replace").strip()
                raise DockerError(f"{' '.join(first[:2])} | {' '.join(second[:2])} failed: {words}")
