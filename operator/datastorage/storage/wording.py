"""The words of a question, as the searches by words take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_BETWEEN: Final = r"(?:[^[:alnum:]]|\\[nrtbf])"


@dataclass(frozen=True, slots=True)
class Clue:
    """Words of a question that may single out the few records that contain them."""

    words: str
    """Words of letters and digits, separated by spaces."""
    in_order: bool = True
    """Whether the words must be adjacent, in this order."""
    min_words: int = 1
    """A clue with fewer words is ignored. Words that are in every text, such as "the", do not count."""

    @property
    def pattern(self) -> str:
        """The regular expression for the words in sequence, within JSON text."""
        return f"(?:^|{_BETWEEN}){f'{_BETWEEN}+'.join(self.words.split())}(?:$|[^[:alnum:]])"


@dataclass(frozen=True, slots=True)
class Wording:
    """A question as words, each of letters and digits only."""

    words: Sequence[str]
    phrases: Sequence[str] = ()
    """Words that must be adjacent, in this order."""
    excluded: Sequence[str] = ()
    """Words and phrases that a record must not contain."""
    clues: Sequence[Clue] = ()
    """Clues that may single out a few records, which then come first."""
