"""The form of every answer, from which the OpenAPI document is made.

The routes write their answers themselves, since a record is large and already in the right form. Tests
compare their answers with these models.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from datastorage.query.filters import SearchMode
from datastorage.query.searchresult import FoundBy
from datastorage.resources.models.base import field_name
from datastorage.resources.validation.problems import Code
from datastorage.storage.groups import GroupKey

SCHEMAS_AT: Final = "#/components/schemas/"

_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_Uid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
_Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_PageToken = Annotated[
    str | None, Field(description="The `pageToken` of the next page. null on the last page.")
]


_INTACT: Final = "Whether the stored bytes still have this hash."


class Answer(BaseModel):
    """The base of all models here."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=field_name, populate_by_name=True)


class FieldError(Answer):
    """One value that is wrong."""

    pointer: str = Field(description="JSON pointer of the value in the body, or the name of the parameter.")
    code: Code = Field(description="The kind of mistake, for programs.")
    detail: str = Field(description="The mistake in a sentence, for people.")


class Problem(Answer):
    """A request, or a record of a batch, that failed: problem details as in RFC 9457."""

    type: str = Field(description="A URN that ends with the code.")
    title: str = Field(description="The name of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="The kind of problem, for programs. The codes never change.")
    detail: str = Field(description="The mistake and the remedy in words, for people.")
    errors: list[FieldError] = Field(default_factory=list, description="The values that are wrong, if any.")
    request_id: str = Field(
        default="",
        description="The identifier of the request, as in `X-Request-Id`: quote it when you report a "
        "problem. The problem with a single record of a batch has none.",
    )
    items: "list[FailedItem]" = Field(
        default_factory=list,
        description="The records at fault, in the order of the request. Only for a batch with `atomic=true`.",
    )


class Receipt(Answer):
    """The description of the row that a request has in the archive. None of it ever changes."""

    kind: Literal["AuditRecord"]
    namespace: str
    name: str = Field(description="The name that was sent, or one that was made from type and uid.")
    uid: _Uid = Field(description="The uid that was sent, or a new one of version 7.")
    generation: Literal[1]
    created_at: _Time = Field(description="When the request came, by the operator's clock.")
    stored_at: _Time = Field(description="When the record was committed, by PostgreSQL's clock.")
    content_hash: _Hash = Field(description="SHA-256 of the stored bytes.")
    recorded_by: str | None = Field(
        description="The caller, as the API server has named it. A record that was first answered with 202 "
        "has the author of its custom resource instead: the operator's own ServiceAccount, or null."
    )
    via: Literal["api", "cluster"] = Field(
        description="cluster: the record was first answered with 202, and stored from its custom resource."
    )


class Accepted(Answer):
    """The custom resource that keeps a record while PostgreSQL is away."""

    kind: Literal["AuditRecord"]
    namespace: str
    name: str = Field(description="The name of the custom resource, and of the record that it becomes.")
    stored: Literal[False]


class StoredItem(Answer):
    """A record of a batch that is stored."""

    index: int = Field(
        description="The place of the record in the request, from 0. Empty lines do not count."
    )
    status: Literal[200, 201] = Field(description="201: stored now. 200: the same request was stored before.")
    record: Receipt


class FailedItem(Answer):
    """A record of a batch that is not stored."""

    index: int = Field(
        description="The place of the record in the request, from 0. Empty lines do not count."
    )
    status: int = Field(description="The HTTP status that this record alone would have been answered with.")
    problem: Problem


class BatchResult(Answer):
    """The result of each record of a batch, in the order of the request."""

    stored: int = Field(description="The number of records that are stored.")
    failed: int = Field(description="The number of records that are not stored.")
    items: list[StoredItem | FailedItem]


class Stored(Answer):
    """One generation of an AuditRecord or ActionTrace in the archive."""

    kind: Literal["AuditRecord", "ActionTrace"]
    namespace: str
    name: str
    uid: _Uid
    generation: int = Field(description="The number of the spec, from 1. AuditRecords have one alone.")
    created_at: _Time = Field(description="When the object was created, or its request came.")
    stored_at: _Time = Field(description="When the record was committed, by PostgreSQL's clock.")
    content_hash: _Hash = Field(description="SHA-256 of the bytes, computed when they were stored.")
    diverged: bool = Field(
        description="Whether another content was stored before under this uid and generation, because the "
        "cluster was restored from a backup, or cloned. Both are kept."
    )
    via: Literal["cluster", "api"] = Field(description="Whether it came as a custom resource or by this API.")
    recorded_by: str | None = Field(
        description="The user who recorded it, by the word of the API server: the sender of the request, or "
        "the author of the object in this generation. null where the API server does not vouch for a name."
    )


class Record(Stored):
    """One generation of an AuditRecord or ActionTrace, as it is stored."""

    intact: bool = Field(description=_INTACT)
    record: dict[str, Any] | None = Field(
        description="The object: apiVersion, kind, metadata and spec. null if its bytes can't be read."
    )


class ExportLine(Record):
    """A record in an export, on a line of its own. `record` is the last member."""

    position: int = Field(
        description="The place of the record in the order of storing. The numbers have gaps."
    )
    resume_token: str = Field(description="The `resumeToken` with which an export goes on after this record.")
    changed_content: str | None = Field(
        None,
        description="The bytes in Base64, if they are not as they were stored. Then `intact` is false, and "
        "`record` is null. Otherwise the field is left out.",
    )


class ExportEnd(Answer):
    """The last line of an export. Only a complete export has it."""

    kind: Literal["ExportEnd"]
    count: int = Field(description="The lines before this one, in this answer.")
    lines_hash: _Hash = Field(
        description="SHA-256 of all bytes before this line, each line with its line feed, uncompressed."
    )
    position: int = Field(
        description="The export has all records up to this position. For a caller with the right in one "
        "namespace, it is the position of the last record."
    )
    resume_token: str = Field(
        description="The `resumeToken` of the next export, which has what was stored since."
    )


class Target(Answer):
    """The object that a record is about. Each field is null where the record does not give it."""

    kind: str | None
    namespace: str | None
    name: str | None


class Outline(Stored):
    """A record in a list. A text of more than 512 characters is cut."""

    correlation_id: str | None = Field(description="The incident that the record belongs to.")
    type: str | None = Field(description="The type of an AuditRecord; null for an ActionTrace.")
    action: str | None = Field(description="The action of an AuditRecord, the actionType of an ActionTrace.")
    phase: str | None = Field(
        description="The phase of an AuditRecord, the execution status of an ActionTrace."
    )
    severity: str | None = Field(description="Severity of the cause.")
    target: Target
    intact: bool = Field(
        default=False, description=f"{_INTACT} Only if `fields` asks for it, or for the record."
    )
    record: dict[str, Any] | None = Field(
        None,
        description="The fields of the object that `fields` asks for; left out if it asks for none. null if "
        "its bytes can't be read.",
    )


class Page(Answer):
    """Records, the newest first."""

    items: list[Outline]
    next_page_token: _PageToken


class History(Answer):
    """The generations of an ActionTrace, the newest first."""

    items: list[Record]


class Hit(Record):
    """A record that a search found."""

    score: float = Field(
        description="How good the hit is. Scores compare within one answer only. With `flat`, they are the "
        "order of the hits."
    )
    similarity: float | None = Field(
        description="Cosine similarity of question and record, 1 at most. null if the record has no vector, "
        "or if only words were searched for."
    )
    found_by: list[FoundBy] = Field(
        description="Why it is among the hits: few texts are nearer to the question in meaning, or it has "
        "words of the question. `clue`: it has an identifier of the question, all of its quoted words, or "
        "all of its words, and so comes before all that have not. `incident`: other records of its incident "
        "answer the question better; without incidents it would rank lower, or not be among the hits."
    )
    more: int = Field(
        description="Further records that say the same and are not among the hits, also those with words "
        "that the question leaves out."
    )
    correlation_id: str | None = Field(description="The incident that the record belongs to.")
    more_of_incident: int = Field(
        description="Further records of the incident that meet the conditions and are not among the hits."
    )


class SearchResult(Answer):
    """The records that answer a question best, the best first.

    Without `flat`, the hits of an incident follow its best one, but records that match a clue come before all
    others.
    """

    mode: SearchMode = Field(description="The mode that was used.")
    degraded: str | None = Field(
        description="Why another mode was used than the one that was asked for. null if the same was used."
    )
    left_out: int = Field(
        description="Further hits that the answer has no room for, because the records are very large. A "
        "smaller `limit` does not show them; conditions that leave out others do."
    )
    items: list[Hit]


class TimelineEntry(Record):
    """A record of an incident."""

    at: _Time = Field(description="The time of the event, by which the entries are ordered.")
    record: dict[str, Any] | None = Field(
        None,
        description="The object, or the fields of it that `fields` asks for; left out if it asks for none. "
        "null if its bytes can't be read.",
    )


class Timeline(Answer):
    """The records of an incident in the order of their events, with every generation of its traces."""

    items: list[TimelineEntry]
    next_page_token: _PageToken


class HistoryEntry(Stored):
    """One action on an object. The texts are those of the record."""

    intact: bool = Field(description=_INTACT)
    correlation_id: str | None = Field(description="The incident that the record belongs to.")
    target: Target
    action: str | None = Field(description="The action of an AuditRecord, the actionType of an ActionTrace.")
    outcome: str | None = Field(
        description="The phase of an AuditRecord, the execution status of an ActionTrace."
    )
    success: bool | None = Field(
        description="Whether the action had the intended effect, as an AuditRecord says. null if it does not."
    )
    effectiveness_score: float | None = Field(
        description="How well the action of an ActionTrace worked, from 0 to 1. null until it is assessed."
    )
    error: str | None = Field(description="The error, if there was one.")
    model: str | None = Field(description="The model that chose the action, or analysed the cause.")
    model_confidence: float | None = Field(description="How sure the model was, from 0 to 1.")
    summary: str = Field(
        description="The action and the remark on it, as tables of the command line show it."
    )
    sentence: str = Field(description="All of this in words, on one line; long texts are cut.")


class TargetHistory(Answer):
    """The actions on an object, the newest first."""

    items: list[HistoryEntry]
    next_page_token: _PageToken


class Duration(Answer):
    """How long the records of a group took, from start to end. null where no record says that."""

    records: int = Field(description="Records with a start and an end.")
    mean_seconds: float | None
    p50_seconds: float | None = Field(description="Half of these records took no longer.")
    p95_seconds: float | None = Field(description="95 % of these records took no longer.")


class Effectiveness(Answer):
    """How well the actions of a group worked."""

    records: int = Field(description="ActionTraces with a score.")
    mean: float | None = Field(description="The mean score, from 0 to 1. null where there is none.")


class Group(Answer):
    """Records with the same values of the keys."""

    group: dict[str, str | None] = Field(
        description="The value of each key. null stands for records without one. A day is a date in UTC."
    )
    records: int
    failed: int = Field(
        description="AuditRecords whose phase is Failed, and ActionTraces that failed or were rolled back."
    )
    duration: Duration
    effectiveness: Effectiveness


class Summary(Answer):
    """Records in groups: those of later days first, then those with more records."""

    group_by: list[GroupKey] = Field(description="The keys.")
    since: _Time = Field(description="The earliest time of creation of the records that are counted.")
    until: _Time | None = Field(description="The records were created before this time; null for no end.")
    records: int = Field(description="Records in all groups.")
    groups: int = Field(description="Groups that there are.")
    truncated: bool = Field(description="Whether there are more groups than items.")
    items: list[Group]


class Health(Answer):
    """The checks of a process."""

    status: Literal["ok", "failing"]
    checks: dict[str, str] = Field(description="By the name of each check: ok, or what is wrong.")


class Version(Answer):
    """The program that serves the API."""

    name: Literal["kubernaut-datastorage"]
    version: str = Field(description="The version of the program.")
    revision: str | None = Field(description="The commit that it was built from. null if that is not known.")
    api_version: Literal["v1"] = Field(description="The version of the API, as in its paths.")


ANSWERS: Final[tuple[type[Answer], ...]] = (
    Receipt, Accepted, BatchResult, Record, Page, History, SearchResult, Timeline, TargetHistory, Summary,
    ExportLine, ExportEnd, Problem, Health, Version,
)  # fmt: skip


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of all answers by their names, with references to each other."""
    inputs: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (each, "serialization") for each in ANSWERS
    ]
    _, found = models_json_schema(inputs, ref_template=SCHEMAS_AT + "{model}")
    return dict(found["$defs"])
