"""Commands of Docker that fail, say much, take too long or are missing; programs stand in for `docker`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.docker import Docker, DockerError
from harness.docker.client import Limits

MakeProgram = Callable[[str, str], None]
SAVED = Path("/dev/null")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """Provide a function that makes a shell script, which is found in place of the program of its name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def test_a_failed_save_says_why(program: MakeProgram) -> None:
    program("docker", "echo no such image: a >&2; exit 1")
    program("zstd", "cat >/dev/null")
    with pytest.raises(DockerError, match=r"docker save \| zstd .*\(exit 1, 0\)\nno such image: a"):
        Docker().save(["a"], SAVED)


def test_a_failed_load_says_why(program: MakeProgram) -> None:
    program("zstd", "exec cat /dev/zero")  # ends when nothing reads any more
    program("docker", "echo no space left >&2; exit 1")
    with pytest.raises(DockerError, match="no space left"):
        Docker().load(SAVED)


def test_a_source_that_says_much_is_no_hindrance(program: MakeProgram) -> None:
    program("docker", "head -c 1000000 /dev/zero >&2; echo the image")
    program("zstd", "cat >/dev/null")
    Docker(Limits(transfer=60)).save(["a"], SAVED)


def test_a_pipe_that_takes_too_long_is_ended(program: MakeProgram) -> None:
    program("docker", "exec sleep 600")
    program("zstd", "exec cat")
    with pytest.raises(DockerError, match=r"docker save \| zstd -T0 took more than 0 s"):
        Docker(Limits(transfer=0.1)).save(["a"], SAVED)


def test_a_missing_program_is_named_with_its_package(
    program: MakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("docker", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(DockerError, match=r"zstd is missing: install it .*zstd"):
        Docker().save(["a"], SAVED)


def test_an_image_that_cannot_be_pulled_has_a_reason(program: MakeProgram) -> None:
    program("docker", "echo no such host >&2; exit 1")
    reason = Docker().pull("a")
    assert reason is not None
    assert "no such host" in reason


def test_a_pull_that_takes_too_long_has_a_reason(program: MakeProgram) -> None:
    program("docker", "exec sleep 600")
    reason = Docker(Limits(transfer=0.1)).pull("a")
    assert reason is not None
    assert "docker pull --quiet took more than" in reason


def test_a_command_gets_its_input(program: MakeProgram) -> None:
    program("docker", "exec cat")
    assert Docker().run("exec", input="a\nb").stdout == "a\nb"
    assert Docker().run("exec").stdout == ""
