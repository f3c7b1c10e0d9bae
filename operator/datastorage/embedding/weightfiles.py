"""Finds the files in which a model has its weights: its own, and those beside it that it refers to."""

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# The key of a reference to another file, as the format encodes it: field 1, 8 bytes. A model without it has
# all of its weights in its own file.
_REFERENCE: Final = b"\n\x08location"
# The same path may be written with more between its parts: onnxruntime takes "a//b" and "a/./b" for "a/b".
_SEPARATOR: Final = rb"/[./]*"


def weight_files(model: Path) -> Iterator[Path]:
    """Yield the model's file, those that are named after it, and the others to which it refers.

    A reference is a path from the model's directory, and its text is somewhere in the model's file. So a file
    counts if its path is found in there. This needs no reader of the format, and leads nowhere out of the
    directory, as following the references might. If a path is in there for another reason, its file counts
    too: a change of it makes another model, which is the safe side. Not found are files in directories behind
    links, and by a path that leads into a directory and back ("a/b/../c").

    Raises OSError if a file or directory can't be read.
    """
    yield model
    # They count even if nothing refers to them: with them, names were made under which vectors are stored.
    named_after = {path for path in model.parent.glob(f"{model.name}[._]data*") if path.is_file()}
    yield from sorted(named_after)
    yield from sorted(_referred_to(model) - named_after - {model})


def _referred_to(model: Path) -> set[Path]:
    with model.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # can't be mapped
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_REFERENCE) < 0:
                return set()
            beside = (path for path in model.parent.rglob("*") if path.is_file())
            return {path for path in beside if re.search(_written(path.relative_to(model.parent)), content)}


def _written(path: Path) -> bytes:
    """Return a pattern of the ways to write a path."""
    return _SEPARATOR.join(re.escape(os.fsencode(part)) for part in path.parts)
