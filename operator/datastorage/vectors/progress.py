"""The progress and the results of a re-embedding run, as values to show."""

from dataclasses import dataclass, field
from enum import StrEnum

from datastorage.records.naming import MAX_NAMED


class Stage(StrEnum):
    """The stages of a run, in their order."""

    SET_TEXTS = "records to texts"
    EMBED = "texts to vectors"
    INDEX = "index steps"


@dataclass(frozen=True)
class Missing:
    """The work that is left. ``texts`` does not count the texts that records still lack."""

    records_without_text: int
    texts: int
    texts_without_vector: int


@dataclass
class Progress:
    """How far a run has come. ``done`` and ``total`` count the current stage; a total of None is unknown."""

    stage: Stage = Stage.SET_TEXTS
    done: int = 0
    total: int | None = 0
    ended: list[tuple[Stage, int, int | None]] = field(default_factory=list)
    """The earlier stages, each with its ``done`` and ``total``."""
    given_text: int = 0
    embedded: int = 0
    skipped: int = 0
    refused: int = 0
    skipped_named: list[str] = field(default_factory=list)
    """The first records that were skipped, each with the reason."""
    refused_named: list[str] = field(default_factory=list)
    """The first texts that were refused, each with the reason."""
    index_error: str | None = None

    def stages(self) -> list[tuple[str, int, int | None]]:
        """Return the stages so far, each with its ``done`` and ``total``; the last one goes on."""
        return [*self.ended, (self.stage, self.done, self.total)]

    def begin(self, stage: Stage, total: int | None) -> None:
        """Start a stage."""
        if stage is not self.stage:
            self.ended.append((self.stage, self.done, self.total))
        self.stage, self.done, self.total = stage, 0, total

    def advance(self, count: int) -> None:
        """Add to ``done``, which may exceed the total that was counted at the beginning."""
        self.done += count
        if self.total is not None:
            self.total = max(self.total, self.done)

    def skip(self, name: str, reason: str) -> None:
        """Note a record that gets no text."""
        self.skipped += 1
        if len(self.skipped_named) < MAX_NAMED:
            self.skipped_named.append(f"{name}: {reason}")

    def refuse(self, key: bytes, text: str, reason: str) -> None:
        """Note a text of which the model makes no vector."""
        self.refused += 1
        if len(self.refused_named) < MAX_NAMED:
            self.refused_named.append(f"{key.hex()} {text[:60]!r}: {reason}")
