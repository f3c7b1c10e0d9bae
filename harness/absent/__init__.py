"""Keeps the packages of the tests from the processes of the program, which run as in the image then.

Kopf loads ``pykube`` and ``kubernetes`` if they are installed. Only the tests need them, and they would add a
third of a second and some 11 MiB to each operator. Dependencies need the others for work that the program
never asks of them, so the build of the image leaves them out (Dockerfile). The modules of this folder stand
in for all of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path


def as_in_image(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process, with this folder before all others that have packages."""
    folders = (str(Path(__file__).parent.resolve()), environment.get("PYTHONPATH", ""))
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
