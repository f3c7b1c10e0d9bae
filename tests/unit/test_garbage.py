"""Python looks for garbage seldom. Each test has a process of its own: these settings belong to one."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.absent import as_in_image

_LOADING: Final = """
import gc
from datastorage.__main__ import _run

looks = []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"]))

def load():
    import datastorage.runtime.run
    print(len(gc.get_objects()) > 100_000, max(looks))

_run(load)
"""
_SPARING: Final = """
import gc
import weakref
from datastorage.runtime.garbage import spare_what_is_loaded

class Node: pass

garbage, kept = Node(), Node()
garbage.itself, gone = garbage, weakref.ref(garbage)
del garbage
spare_what_is_loaded()
print(gone() is None, any(each is kept for each in gc.get_objects()))
"""


def _printed(program: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()


def test_loading_the_operator_makes_many_objects_and_none_is_looked_at_twice(tmp_path: Path) -> None:
    assert _printed(_LOADING, as_in_image({"HOME": str(tmp_path)})) == "True 0"


def test_what_is_loaded_is_not_looked_at_again_and_garbage_is_freed_before(tmp_path: Path) -> None:
    assert _printed(_SPARING, as_in_image({"HOME": str(tmp_path)})) == "True False"
