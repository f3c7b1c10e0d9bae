"""The common base of the models of both resources: naming, bounded types, CEL rules, references."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

TEXT_LIMIT = 16_384
"""Characters in a free text: room for a stack trace, and far below the size limit of an object in etcd."""

INT32_MAX = 2**31 - 1

RULES_KEY = "x-kubernetes-validations"
"""The key of the CEL rules in a schema."""


def field_name(name: str) -> str:
    """Return a Python name in the spelling of Kubernetes: camel case, with ID in capitals."""
    return re.sub(r"Id$", "ID", to_camel(name))


class Model(BaseModel):
    """The base class of all models."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=field_name, populate_by_name=True)


def rule(
    expression: str, message: str, *, field_path: str | None = None, dynamic: str | None = None
) -> dict[str, str]:
    """Return a CEL rule.

    `dynamic` is a CEL expression for the message of a refusal; `message` is used if the expression fails.
    """
    result = {"rule": expression, "message": message}
    if dynamic:
        result["messageExpression"] = dynamic
    if field_path:
        result["fieldPath"] = field_path
    return result


def rules(*items: dict[str, str]) -> dict[str, Any]:
    """Return CEL rules as an extra key of a JSON schema."""
    return {RULES_KEY: list(items)}


ATOMIC_MAP: dict[str, Any] = {"x-kubernetes-map-type": "atomic"}
ATOMIC_LIST: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}

ANY_JSON = {"x-kubernetes-preserve-unknown-fields": True}

FreeJSON = Annotated[Any, WithJsonSchema(ANY_JSON | {"nullable": True})]
"""Any JSON value, kept unchanged."""

FreeObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object"} | ATOMIC_MAP | ANY_JSON)]
"""A JSON object with any content, kept unchanged. Its last writer owns it as a whole."""

Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
Fraction = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(min_length=1, max_length=255)]
Label = Annotated[str, Field(max_length=255)]
Name = Annotated[str, Field(min_length=1, max_length=253)]
Seconds = Annotated[int, Field(ge=0, le=INT32_MAX, json_schema_extra={"format": "int32"})]
Time = Annotated[
    datetime,
    Field(
        json_schema_extra={
            # The format alone also allows lower case, fractions after a comma, and offsets of a day and more.
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$"
        }
    ),
]
Text = Annotated[str, Field(max_length=TEXT_LIMIT)]

CORRELATION_ID = (
    "Ties together everything that belongs to one remediation: the name or UID of the remediation request."
)
TTL_SECONDS = (
    "Seconds that the object stays in the cluster after it has been stored for good. 0 deletes it at once, "
    "without writing a status first. When left out, the operator's own setting applies (one hour by "
    "default). The stored row is not affected."
)
NOT_PRUNED = "Fields that are not listed here are dropped by the API server"
UNSET_TIME = "Go's zero time, 0001-01-01T00:00:00Z, counts as left out."

IN_ORDER = rule(
    "!has(self.startTime) || !has(self.endTime) || self.endTime >= self.startTime"
    # With the offset of a local zone, Go's zero is up to a minute off.
    " || self.endTime < timestamp('0001-01-01T00:01:00Z')",
    "endTime must not be before startTime",
    field_path=".endTime",
)


class TargetRef(Model):
    """A Kubernetes object."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    api_version: Label | None = Field(
        None, description="API group and version of the object, such as apps/v1."
    )
    kind: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="Kind of the object, such as Deployment."
    )
    namespace: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Namespace of the object. Left out for objects without one, such as nodes."
    )
    name: Name = Field(description="Name of the object.")
    uid: Annotated[str, Field(max_length=63)] | None = Field(
        None,
        description="UID of the object. Another object may have had the same name before, or get it later.",
    )
