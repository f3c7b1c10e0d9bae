"""The process ends when it should, whatever its threads, its event loop and its libraries are doing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 60.0  # far more than any of these takes; a hang would last longer

_HANGS_IN_THE_LOOP = """
import asyncio, time
from datastorage.logs import configure_logging
from datastorage.runtime.processend import LastResort
configure_logging("INFO", "json")

async def main():
    asyncio.create_task(asyncio.sleep(1000), name="the-culprit")
    LastResort(0.2).arm()
    time.sleep(1000)

asyncio.run(main())
"""

_ENDS_IN_ORDER = """
import asyncio, time
from datastorage.runtime.processend import LastResort

async def main():
    with LastResort(1.0) as last_resort:
        last_resort.arm()
    time.sleep(2)

asyncio.run(main())
print("still there")
"""

_LEAVES_A_THREAD = """
import threading, time
from datastorage.runtime.processend import leave
threading.Thread(target=time.sleep, args=(1000,)).start()
print("printed")
leave(3)
"""

_RUN = """
import asyncio
from datastorage.runtime import run as runtime
from datastorage.cli import operator
from datastorage.runtime.processend import leave

async def deaf():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def run(settings):
    {body}
    await asyncio.sleep(0.1)

runtime.run = run
operator._run(None)
leave(0)
"""

_NAMES_HANG = """
#include <unistd.h>
#include <netdb.h>
int getaddrinfo(const char *n, const char *s, const struct addrinfo *h, struct addrinfo **r)
{ sleep(1000); return EAI_AGAIN; }
"""

_TERMINATED_EARLY = """
import sys, time
import datastorage.cli
from datastorage import __main__ as process

def main():
    try:
        print("began", flush=True)
        time.sleep(1000)
    except SystemExit:
        if {swallowed}:
            from datastorage.runtime.processend import end_requested
            print(f"requested: {{end_requested()}}", flush=True)
        else:
            print("unwound", flush=True)
            raise

datastorage.cli.main = main
process.run()
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=SECONDS,
        env=os.environ | environment,
    )  # fmt: skip


def test_a_loop_that_hangs_does_not_keep_the_process() -> None:
    done = run_python(_HANGS_IN_THE_LOOP)
    assert done.returncode == 1
    logged = json.loads(done.stderr.splitlines()[-1])
    assert logged["level"] == "ERROR"
    assert "The stop took longer than 0.2 s" in logged["message"]
    assert "the-culprit" in logged["running"]


def test_an_orderly_end_is_left_alone() -> None:
    done = run_python(_ENDS_IN_ORDER)
    assert (done.returncode, done.stdout) == (0, "still there\n")


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    done = run_python(_LEAVES_A_THREAD)
    assert (done.returncode, done.stdout) == (3, "printed\n")


def test_a_task_that_does_not_end_does_not_keep_the_process() -> None:
    assert run_python(_RUN.format(body="asyncio.create_task(deaf())")).returncode == 0


def test_a_lookup_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler, to have the lookups of names hang")
    library = tmp_path / "names.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-"],
        input=_NAMES_HANG,
        text=True,
        check=True,
    )
    code = _RUN.format(body='asyncio.create_task(asyncio.get_running_loop().getaddrinfo("db.example", 5432))')
    assert run_python(code, LD_PRELOAD=str(library)).returncode == 0


@pytest.mark.parametrize(
    ("swallowed", "said", "code"), [(False, "unwound\n", 143), (True, "requested: True\n", 0)]
)
def test_sigterm_counts_before_the_operator_has_begun(*, swallowed: bool, said: str, code: int) -> None:
    """A library that is being loaded may swallow the exit: the operator checks for it as it begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", _TERMINATED_EARLY.format(swallowed=swallowed)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=SECONDS)
    assert (rest, process.returncode) == (said, code)


# pydantic makes an error of its own from whatever ends the loading of a model.
_TRANSLATED = """
import sys, time, types

def main():
    print("began", flush=True)
    try:
        time.sleep(60)
    except SystemExit as end:
        raise ValueError("SystemExit: 143") from end

sys.modules["datastorage.cli"] = types.SimpleNamespace(main=main)
from datastorage.__main__ import run
run()
"""


def test_sigterm_ends_a_command_whose_library_makes_another_error_of_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TRANSLATED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGTERM)
    rest, error = process.communicate(timeout=SECONDS)
    assert (rest, error, process.returncode) == ("", "", 143)
