"""The parameters of questions: which records are meant, and which page of them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from datastorage.api.fields import MAX_CHARACTERS
from datastorage.api.parameters import Strict
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import MAX_LIMIT, Filter, SearchMode
from datastorage.records.record import Via
from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD, AuditType

_NAMESPACE: Final = "Needed without the right in the whole cluster."
_PAGE_SIZE: Final = "Records on a page, at most."
_EARLIER_PAGE: Final = "The nextPageToken of the page before; valid for the same conditions only."
_FIELDS: Final = (
    "The members of the items beside the outline, with commas in between: `intact`, `record`, or fields of "
    "the record such as `record.spec.message`. Without it, no content is read."
)
_FIELDS_OF_ENTRIES: Final = (
    "The fields of the records in the entries, with commas in between, such as `record.spec.message`; "
    "`intact` alone for none. Without it, the entries have the whole records."
)
_AUDIT_ONLY: Final = "ActionTraces have none, so only AuditRecords are found."
_DEFAULT_PAGE: Final = 50
_DEFAULT_HITS: Final = 10


class QueryType(StrEnum):
    """The last part of the path: the records that are asked for."""

    RECORDS = "records"
    """Of every type and kind."""
    REMEDIATION = "remediation"
    AI_ANALYSIS = "aianalysis"
    WORKFLOW = "workflow"
    EXECUTION = "execution"
    ACTION_TRACES = "actiontraces"

    @property
    def audit_type(self) -> AuditType | None:
        """The ``spec.type`` of the AuditRecords that are meant; None for all."""
        return AuditType.of_path(self.value)

    @property
    def kind(self) -> str | None:
        """The kind that is meant; None for both."""
        if self is QueryType.RECORDS:
            return None
        return ACTION_TRACE.kind if self is QueryType.ACTION_TRACES else AUDIT_RECORD.kind


class Namespaced(Strict):
    """The namespace of a question."""

    namespace: str | None = Field(None, description=_NAMESPACE)

    def for_log(self) -> dict[str, Any]:
        """Return the parameters for the log, without the words of a search and the places of pages."""
        unwanted = {"q", "page_token", "resume_token"}
        found: dict[str, Any] = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude=unwanted
        )
        return found


class OfKind(Namespaced):
    """A kind of records."""

    kind: str | None = Field(
        None, description="AuditRecord or ActionTrace. The types other than `records` imply it."
    )

    def kind_of(self, type_: QueryType) -> str | None:
        """Return the kind that is meant, or None for both. Raises InvalidQueryError for a contradiction."""
        if self.kind is None or type_.kind is None:
            return type_.kind or self.kind
        if self.kind.lower() != type_.kind.lower():
            raise InvalidQueryError(f"kind must be {type_.kind} or left out: the type {type_} implies it")
        return type_.kind


class OfNamespace(OfKind):
    """The namespace of a record that is asked for by its name."""

    namespace: str = Field(description="The namespace of the record.")


class Generation(OfKind):
    """One generation of a record."""

    generation: int | None = Field(None, description="The newest one if it is left out.")


class TimelinePage(Namespaced):
    """A page of a timeline."""

    page_size: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)] = MAX_LIMIT
    page_token: str | None = Field(None, description=_EARLIER_PAGE)
    fields: Annotated[str | None, Field(max_length=MAX_CHARACTERS, description=_FIELDS_OF_ENTRIES)] = None


def _no_number(value: Any) -> Any:
    """Refuse what would count as seconds or milliseconds, by its size: too easily the wrong ones."""
    if not isinstance(value, str | None) or (value is not None and "-" not in value[1:]):
        raise ValueError("must be a time as in RFC 3339, such as 2026-03-05T10:20:30Z")
    return value


Time = Annotated[datetime | None, BeforeValidator(_no_number)]


class Conditions(OfKind):
    """The conditions of a question; a record has to meet all of them."""

    correlation_id: str | None = Field(None, description="The incident that the record belongs to.")
    action_type: str | None = Field(None, description="The actionType; of ActionTraces only.")
    phase: str | None = Field(
        None, description="Phase of an AuditRecord, or the execution status of a trace."
    )
    severity: str | None = Field(None, description="Severity of the cause.")
    target_kind: str | None = Field(None, description="Kind of the object that the record is about.")
    target_namespace: str | None = Field(None, description="Namespace of that object.")
    target_name: str | None = Field(None, description="Name of that object.")
    alert_fingerprint: str | None = Field(None, description="Fingerprint of the alert.")
    action: str | None = Field(
        None, description="The action of an AuditRecord, or the actionType of an ActionTrace."
    )
    environment: str | None = Field(None, description=f"Environment of the step. {_AUDIT_ONLY}")
    cluster: str | None = Field(None, description=f"Cluster in which the step was taken. {_AUDIT_ONLY}")
    actor_kind: str | None = Field(None, description=f"Kind of the actor, such as User. {_AUDIT_ONLY}")
    actor_name: str | None = Field(None, description=f"Name of the actor. {_AUDIT_ONLY}")
    via: Via | None = Field(None, description="Whether the record came as a custom resource or by this API.")
    recorded_by: str | None = Field(
        None, description="The user who recorded it, by the word of the API server."
    )
    since: Time = Field(None, description="Earliest time of creation, with a time zone.")
    until: Time = Field(None, description="The record was created before this time.")

    def filter_of(self, type_: QueryType) -> Filter:
        """Return the filter of the archive."""
        given = {
            name: getattr(self, name)
            for name in Conditions.model_fields
            if name not in {"kind", "action_type"}
        }
        return Filter(kind=self.kind_of(type_), type=type_.audit_type or self.action_type, **given)


class PagedConditions(Conditions):
    """Conditions, and the page of an answer."""

    page_size: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)] = _DEFAULT_PAGE
    page_token: str | None = Field(None, description=_EARLIER_PAGE)


class ListConditions(PagedConditions):
    """The conditions of a list, and what its items have."""

    fields: Annotated[str | None, Field(max_length=MAX_CHARACTERS, description=_FIELDS)] = None


class SearchConditions(Conditions):
    """A search."""

    q: str = Field(description="The question: words, an identifier, a sentence.")
    type: QueryType = Field(QueryType.RECORDS, description="The records to search.")
    mode: SearchMode = Field(SearchMode.HYBRID, description="By meaning (vector), by words (text), or both.")
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Hits, at most.")] = _DEFAULT_HITS
    flat: bool = Field(
        default=False,
        description="Whether the hits come in the order of their scores, however many are of one incident. "
        "Otherwise the hits of an incident follow its best one, though records that match a clue come before "
        "all others, and there are three of each incident at most, unless "
        "the question is about one `correlationID`.",
    )
