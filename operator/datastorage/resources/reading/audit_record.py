"""The meaning of the spec of an AuditRecord.

A new column needs a line in ``_COLUMNS`` and a migration, and nothing more: the statements are generated
from this list. A column's ``filters`` are the conditions on it. A new name of a filter also goes into
``FilterName``, the fields of ``Filter`` (query/filters.py), the options of the command line and the
parameters of the API.
"""

from collections.abc import Iterator
from typing import Final

from datastorage.records.record import Table
from datastorage.resources.kinds import AUDIT_RECORD
from datastorage.resources.reading.fields import Spec, mapping_in, number_in, string_in, text, time, truth_in
from datastorage.resources.reading.kindreading import Column, Reading, Result, search_column
from datastorage.resources.reading.phrases import name_words, sentence, target_words

_MAIN_TEXTS: Final = {
    "action": (),
    "message": (),
    "errorMessage": (),
    "resourceRef": ("kind", "namespace", "name"),
}
# What is short and asked for by its exact words comes first, so that large details do not displace it.
_ORDER_OF_OTHERS: Final = (
    "correlationID", "alertFingerprint", "actor", "cluster", "environment", "severity", "type", "phase",
    "resourceRef", "aiAnalysis", "workflow", "execution", "details",
)  # fmt: skip
_COLUMNS: Final = (
    Column("type", "text", text("type"), filters=("type",)),
    Column("action", "text", text("action"), filters=("action",)),
    Column("phase", "text", text("phase"), filters=("phase",)),
    Column("correlation_id", "text", text("correlationID"), filters=("correlation_id",)),
    Column("start_time", "timestamptz", time("startTime")),
    Column("end_time", "timestamptz", time("endTime")),
    Column("severity", "text", text("severity"), filters=("severity",)),
    Column("environment", "text", text("environment"), filters=("environment",)),
    Column("cluster", "text", text("cluster"), filters=("cluster",)),
    Column("actor_kind", "text", text("actor", "kind"), filters=("actor_kind",)),
    Column("actor_name", "text", text("actor", "name"), filters=("actor_name",)),
    Column("resource_api_version", "text", text("resourceRef", "apiVersion")),
    Column("resource_kind", "text", text("resourceRef", "kind"), filters=("target_kind",)),
    Column("resource_namespace", "text", text("resourceRef", "namespace"), filters=("target_namespace",)),
    Column("resource_name", "text", text("resourceRef", "name"), filters=("target_name",)),
    Column("resource_uid", "text", text("resourceRef", "uid")),
    Column("alert_fingerprint", "text", text("alertFingerprint"), filters=("alert_fingerprint",)),
    search_column(_MAIN_TEXTS, _ORDER_OF_OTHERS),
)


def _sentences(spec: Spec) -> Iterator[str]:
    sentences = [
        name_words(spec.get("action")),
        target_words(spec, "resourceRef"),
        sentence(spec.get("message")),
        sentence(spec.get("errorMessage")),
    ]
    if any(sentences):  # type and phase alone are on every record, and mean nothing
        action, *rest = sentences
        yield action
        yield f"{name_words(spec.get('type'))} {name_words(spec.get('phase')).lower()}".strip()
        yield from rest


def _remarks(spec: Spec) -> Iterator[str]:
    yield string_in(spec, "errorMessage")
    yield string_in(spec, "message")


def _result(spec: Spec) -> Result:
    analysis = mapping_in(spec, "aiAnalysis")
    return Result(
        error=string_in(spec, "errorMessage"),
        model=string_in(analysis, "model"),
        confidence=number_in(analysis, "confidence"),
        success=truth_in(mapping_in(spec, "execution"), "success"),
    )


READING: Final = Reading(
    kind=AUDIT_RECORD,
    table=Table.AUDIT_RECORDS,
    columns=_COLUMNS,
    sentences=_sentences,
    target_field="resourceRef",
    outcome=lambda spec: string_in(spec, "phase"),
    done=lambda spec: string_in(spec, "action"),
    remarks=_remarks,
    result=_result,
    is_final=lambda _: True,  # its spec can't change
)
