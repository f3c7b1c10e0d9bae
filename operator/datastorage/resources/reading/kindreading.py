"""The description of how the specs of a kind are read, for the archive, the search and the interfaces."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from datastorage.records.record import Table, Text
from datastorage.resources.kinds import ResourceKind
from datastorage.resources.reading.fields import Spec, mapping_in, string_in
from datastorage.resources.reading.phrases import joined, search_words
from datastorage.resources.reading.specwords import main_texts, other_texts

FilterName = Literal[
    "type",
    "action",
    "correlation_id",
    "phase",
    "severity",
    "environment",
    "cluster",
    "actor_kind",
    "actor_name",
    "target_kind",
    "target_namespace",
    "target_name",
    "alert_fingerprint",
    "via",
    "recorded_by",
]
"""The names of the conditions on columns that a question may set. One name stands for both kinds.

``via`` and ``recorded_by`` are about columns that all rows have (storage/criteria.py), not about a spec.
"""

FILTERS: Final[tuple[FilterName, ...]] = get_args(FilterName)

_MAX_BRIEF_CHARACTERS: Final = 160


@dataclass(frozen=True, slots=True)
class Column:
    """A typed column of a kind's table, in addition to those that both tables have.

    ``pg_type`` is the type that values are sent as. ``read`` returns the value in a spec. ``filters`` are the
    conditions that questions set on the column. ``expression`` is the SQL expression that is stored, if it is
    not the value itself.
    """

    name: str
    pg_type: str
    read: Callable[[Spec], Any]
    filters: tuple[FilterName, ...] = ()
    expression: str | None = None


SEARCH_VERSION: Final = 1
"""The rules by which the words of a record are made. Raise it if records get other words: then ``datastorage
reindex`` gives them to the rows that are stored."""


def search_column(main: Mapping[str, Sequence[str]], order: Sequence[str]) -> Column:
    """Return the column for the full-text search, which holds the words of the whole spec.

    ``main`` names the texts that come first, and ``order`` the fields that follow; both are described in
    specwords.py.
    """

    def read(spec: Spec) -> str:
        return search_words(main_texts(spec, main), other_texts(spec, order, main))

    expression = "pg_catalog.to_tsvector('english'::regconfig, search)"
    return Column("search", "text", read, expression=expression)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an action; None or empty where the record does not say."""

    error: str
    model: str
    """The model that chose the action, or analysed the cause."""
    confidence: float | None
    """How sure the model was, from 0 to 1."""
    success: bool | None = None
    """Whether the action had the intended effect."""
    score: float | None = None
    """How well the action worked, from 0 to 1."""
    notes: str = ""
    """Remarks on the score."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The functions that read the specs of a kind.

    ``columns`` are in the order of ``Record.index``; the last one is that of the search. ``sentences``
    returns the meaning of a record, to be embedded. ``target_field`` names the field that refers to the
    object that a record is about. ``done`` returns the action that was taken, ``remarks`` the texts about it;
    the first that is not empty goes into the summary. ``result`` returns what came of the action.
    ``is_final`` returns whether no further generation of the object is expected, so that it may become Stored
    and expire.
    """

    kind: ResourceKind
    table: Table
    columns: Sequence[Column] = field(repr=False)
    sentences: Callable[[Spec], Iterable[str]]
    target_field: str
    outcome: Callable[[Spec], str]
    done: Callable[[Spec], str]
    remarks: Callable[[Spec], Iterable[str]]
    result: Callable[[Spec], Result]
    is_final: Callable[[Spec], bool]

    def index(self, spec: Spec) -> tuple[Any, ...]:
        """Return the values of the columns, in their order."""
        return tuple([column.read(spec) for column in self.columns])

    @property
    def search(self) -> Column:
        """The column for the full-text search."""
        return self.columns[-1]

    def words(self, spec: Spec) -> str:
        """Return the words that the record is searched by. Raises nothing."""
        found: str = self.search.read(spec)
        return found

    def text(self, spec: Spec) -> Text:
        """Return the meaning of a record in words, from which its vector is made. Raises nothing."""
        return Text.of(joined(self.sentences(spec)))

    def target(self, spec: Spec) -> str:
        """Return the object that the record is about, as KIND/NAMESPACE/NAME."""
        ref = mapping_in(spec, self.target_field)
        return "/".join(filter(None, (string_in(ref, name) for name in ("kind", "namespace", "name"))))

    def in_brief(self, spec: Spec) -> str:
        """Return the action and the first remark on it, short enough for one line of a table."""
        remark = next((remark for remark in self.remarks(spec) if remark), "")
        text = ": ".join(filter(None, (self.done(spec), remark)))
        return text if len(text) <= _MAX_BRIEF_CHARACTERS else f"{text[: _MAX_BRIEF_CHARACTERS - 1]}…"
