"""The progress and the findings of a run of reembedding, as values for those who show it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# A person reads the names.
_MAX_NAMED: Final = 50


class Stage(StrEnum):
    """The stages of a run, in their order."""

    LINK = "records to texts"
    EMBED = "texts to vectors"
    INDEX = "index steps"


@dataclass(frozen=True)
class Missing:
    """The work that is left. The texts that records lack are not among ``texts``."""

    records_without_text: int
    texts: int
    texts_without_vector: int


@dataclass
class Progress:
    """How far a run has come. ``done`` and ``total`` are of the stage; a total of None is not known."""

    stage: Stage = Stage.LINK
    done: int = 0
    total: int | None = 0
    ended: list[tuple[Stage, int, int | None]] = field(default_factory=list)
    """The stages before, with what was done in them and the total."""
    given_text: int = 0
    embedded: int = 0
    skipped: int = 0
    refused: int = 0
    skipped_named: list[str] = field(default_factory=list)
    """The first of them, with the reason."""
    refused_named: list[str] = field(default_factory=list)
    index_error: str | None = None

    def begin(self, stage: Stage, total: int | None) -> None:
        """Start a stage."""
        if stage is not self.stage:
            self.ended.append((self.stage, self.done, self.total))
        self.stage, self.done, self.total = stage, 0, total

    def advance(self, count: int) -> None:
        """Count what was done. It may be more than was there at the beginning."""
        self.done += count
        if self.total is not None:
            self.total = max(self.total, self.done)

    def skip(self, name: str, reason: str) -> None:
        """Note a record that gets no text."""
        self.skipped += 1
        if len(self.skipped_named) < _MAX_NAMED:
            self.skipped_named.append(f"{name}: {reason}")

    def refuse(self, key: bytes, text: str, reason: str) -> None:
        """Note a text of which the model makes no vector."""
        self.refused += 1
        if len(self.refused_named) < _MAX_NAMED:
            self.refused_named.append(f"{key.hex()} {text[:60]!r}: {reason}")
