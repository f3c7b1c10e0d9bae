"""The options that choose records: the same for each command that searches or lists."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from datastorage.cli.completion import one_of
from datastorage.cli.times import parse_time
from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter
from datastorage.resources.kinds import KINDS, AuditPhase, AuditType, ExecutionStatus

Kind = Annotated[
    str | None,
    typer.Option(
        help="AuditRecord or ActionTrace.",
        show_default="both",
        autocompletion=one_of(kind.kind for kind in KINDS),
    ),
]

Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the object.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterOptions:
    """The options as they were typed. Each field is one option."""

    kind: Kind = None
    namespace: Namespace = None
    type: Annotated[
        str | None,
        typer.Option(
            help="Type of an AuditRecord: Remediation, AIAnalysis, Workflow or Execution. "
            "With --kind ActionTrace: its actionType.",
            autocompletion=one_of(AuditType),
        ),
    ] = None
    correlation: Annotated[str | None, typer.Option(help="Correlation ID of the incident.")] = None
    since: Annotated[
        str | None,
        typer.Option(
            help="Created at or after this time, such as 2026-03-05T10:00:00Z, or no longer ago than this, "
            "such as 90m, 24h or 7d."
        ),
    ] = None
    until: Annotated[str | None, typer.Option(help="Created before this time; written as for --since.")] = (
        None
    )
    phase: Annotated[
        str | None,
        typer.Option(
            help="Outcome: the phase of an AuditRecord, the execution status of an ActionTrace.",
            autocompletion=one_of([*AuditPhase, *ExecutionStatus]),
        ),
    ] = None
    severity: Annotated[str | None, typer.Option(help="Severity, such as critical.")] = None
    target: Annotated[
        str | None,
        typer.Option(
            help="The object that the record is about: KIND, KIND/NAME or KIND/NAMESPACE/NAME, such as "
            "Deployment/shop/cart."
        ),
    ] = None
    alert_fingerprint: Annotated[
        str | None, typer.Option(help="Fingerprint of the alert that led to the record.")
    ] = None
    action: Annotated[
        str | None, typer.Option(help="The action of an AuditRecord, the actionType of an ActionTrace.")
    ] = None
    environment: Annotated[
        str | None, typer.Option(help="Environment of the step, such as production. Finds AuditRecords only.")
    ] = None
    cluster: Annotated[
        str | None, typer.Option(help="Cluster in which the step was taken. Finds AuditRecords only.")
    ] = None
    actor_kind: Annotated[
        str | None,
        typer.Option(help="Kind of the actor that took the step, such as User. Finds AuditRecords only."),
    ] = None
    actor_name: Annotated[
        str | None, typer.Option(help="Name of the actor that took the step. Finds AuditRecords only.")
    ] = None
    via: Annotated[
        str | None,
        typer.Option(help="How the record came: as a custom resource (cluster), or by the REST API (api)."),
    ] = None
    recorded_by: Annotated[
        str | None,
        typer.Option(
            help="The user who recorded it, by the word of the API server, such as jane@example.com."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise InvalidQueryError for wrong options, before anything connects."""
        self.at(datetime.now(UTC))

    def at(self, now: datetime) -> Filter:
        """Return the filter; "24h ago" counts from ``now``."""
        kind, namespace, name = _target(self.target)
        return Filter(
            kind=self.kind,
            namespace=self.namespace,
            type=self.type,
            correlation_id=self.correlation,
            since=None if self.since is None else parse_time("--since", self.since, now),
            until=None if self.until is None else parse_time("--until", self.until, now),
            phase=self.phase,
            severity=self.severity,
            target_kind=kind,
            target_namespace=namespace,
            target_name=name,
            alert_fingerprint=self.alert_fingerprint,
            action=self.action,
            environment=self.environment,
            cluster=self.cluster,
            actor_kind=self.actor_kind,
            actor_name=self.actor_name,
            via=self.via,
            recorded_by=self.recorded_by,
        )

    @property
    def is_relative(self) -> bool:
        """Whether a condition depends on the time at which the question is put."""
        return self.since is not None or self.until is not None

    @property
    def doubt(self) -> str | None:
        """A likely mistake that would explain an empty answer, or None."""
        kind = (self.target or "").partition("/")[0]
        if not kind or kind[0].isupper():
            return None
        return (
            f"--target begins with the KIND, and {kind!r} looks like a name: give KIND/NAME or "
            "KIND/NAMESPACE/NAME, such as Deployment/payments/checkout"
        )


def _target(text: str | None) -> tuple[str | None, str | None, str | None]:
    match text.split("/") if text is not None else []:
        case []:
            return None, None, None
        case [kind]:
            return kind, None, None
        case [kind, name]:
            return kind, None, name
        case [kind, namespace, name]:
            return kind, namespace, name
    raise InvalidQueryError("--target must be KIND, KIND/NAME or KIND/NAMESPACE/NAME")
