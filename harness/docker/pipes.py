"""Two programs that run at the same time, the second reading what the first writes."""

import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from harness.controlplane.processes import Deadline
from harness.docker.errors import DockerError

WORDS_BYTES = 4096  # of what a program has said; the end has the reason


def pipe(first: Sequence[str], second: Sequence[str], seconds: float) -> None:
    """Run `first | second`.

    Raises:
        DockerError: a program failed or is missing, or both took too long; the message has their words.
    """
    name = f"{' '.join(first[:2])} | {' '.join(second[:2])}"
    deadline = Deadline(seconds)
    with ExitStack() as stack:
        # A pipe for what a program says would stop the program when it is full.
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        source = _start(first, said[0], stack, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        sink = _start(second, said[1], stack, stdin=source.stdout, stdout=subprocess.DEVNULL)
        if source.stdout is not None:
            source.stdout.close()  # the sink has it; `source` ends when the sink does
        try:
            for process in (sink, source):
                process.wait(deadline.left())
        except subprocess.TimeoutExpired as error:
            raise DockerError(
                f"{name} took more than {seconds:.0f} s: is dockerd overloaded?{_words(said)}"
            ) from error
        if sink.returncode != 0 or source.returncode != 0:
            raise DockerError(f"{name} failed (exit {source.returncode}, {sink.returncode}){_words(said)}")


def _start(
    command: Sequence[str],
    said: IO[bytes],
    stack: ExitStack,
    *,
    stdin: int | IO[bytes] | None,
    stdout: int,
) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=said)
    except FileNotFoundError as error:
        raise DockerError(
            f"{command[0]} is missing: install it (Debian: apt-get install docker.io zstd)"
        ) from error
    stack.enter_context(process)
    stack.callback(process.kill)  # before it is waited for; nothing happens to an ended one
    return process


def _words(said: Sequence[IO[bytes]]) -> str:
    """Return the last words of both programs, to be put after a message."""
    ends = []
    for file in said:
        file.seek(0)
        ends.append(file.read()[-WORDS_BYTES:].decode(errors="replace").strip())
    return "".join(f"\n{end}" for end in ends if end)
