"""The form of every answer, from which the OpenAPI document is made.

The routes write their answers themselves, since a record is large and already in the right form. Tests
compare their answers with these models.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from datastorage.query.filters import SearchMode
from datastorage.resources.models.base import field_name
from datastorage.resources.validation.problems import Code

SCHEMAS_AT: Final = "#/components/schemas/"

_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_Uid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
_Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_PageToken = Annotated[
    str | None, Field(description="The `pageToken` of the next page. null on the last page.")
]


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
    detail: str = Field(description="What is wrong and what to do, for people.")
    errors: list[FieldError] = Field(default_factory=list, description="The values that are wrong, if any.")
    items: "list[FailedItem]" = Field(
        default_factory=list,
        description="The records at fault, in the order of the request. Only for a batch with `atomic=true`.",
    )


class Receipt(Answer):
    """What the archive holds for a request that stored a record. None of it ever changes."""

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


class Record(Answer):
    """One generation of an AuditRecord or ActionTrace, as it is stored."""

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
    intact: bool = Field(description="Whether the stored bytes still have this hash.")
    via: Literal["cluster", "api"] = Field(description="Whether it came as a custom resource or by this API.")
    recorded_by: str | None = Field(
        description="The user who recorded it, by the word of the API server: the sender of the request, or "
        "the author of the object in this generation. null where the API server does not vouch for a name."
    )
    record: dict[str, Any] | None = Field(
        description="The object: apiVersion, kind, metadata and spec. null if its bytes can't be read."
    )


class Page(Answer):
    """Records, the newest first."""

    items: list[Record]
    next_page_token: _PageToken


class History(Answer):
    """All generations of an ActionTrace, the newest first."""

    items: list[Record]


class Hit(Record):
    """A record that a search found."""

    score: float = Field(description="The order of the hits. Scores compare within one answer only.")
    similarity: float | None = Field(
        description="Cosine similarity of question and record, 1 at most. null if words alone found it."
    )
    more: int = Field(description="Further records that say the same and are not among the hits.")


class SearchResult(Answer):
    """The records that answer a question best, the best first."""

    mode: SearchMode = Field(description="The mode that was used.")
    degraded: str | None = Field(
        description="Why another mode was used than the one that was asked for. null if the same was used."
    )
    items: list[Hit]


class TimelineEntry(Record):
    """A record of a remediation."""

    at: _Time = Field(description="The time of the event, by which the entries are ordered.")


class Timeline(Answer):
    """The records of a remediation in the order of their events, with every generation of its traces."""

    items: list[TimelineEntry]
    next_page_token: _PageToken


class Health(Answer):
    """The checks of a process."""

    status: Literal["ok", "failing"]
    checks: dict[str, str] = Field(description="By the name of each check: ok, or what is wrong.")


ANSWERS: Final[tuple[type[Answer], ...]] = (
    Receipt, Accepted, BatchResult, Record, Page, History, SearchResult, Timeline, Problem, Health,
)  # fmt: skip


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of all answers by their names, with references to each other."""
    inputs: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (each, "serialization") for each in ANSWERS
    ]
    _, found = models_json_schema(inputs, ref_template=SCHEMAS_AT + "{model}")
    return dict(found["$defs"])
