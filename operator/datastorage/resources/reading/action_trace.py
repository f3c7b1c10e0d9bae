"""The meaning of the spec of an ActionTrace.

A new column needs a line in ``_COLUMNS`` and a migration, and nothing more: the statements are generated
from this list. A column's ``filters`` are the conditions on it. A new name of a filter also goes into
``FilterName``, the fields of ``Filter`` (query/filters.py), the options of the command line and the
parameters of the API.
"""

from collections.abc import Iterator
from typing import Final

from datastorage.records.record import Table
from datastorage.records.times import is_given
from datastorage.resources.kinds import ACTION_TRACE, ENDED
from datastorage.resources.reading.fields import Spec, mapping_in, number, number_in, string_in, text, time
from datastorage.resources.reading.kindreading import Column, Reading, Result, search_column
from datastorage.resources.reading.phrases import name_words, sentence, target_words


def _is_final(spec: Spec) -> bool:
    """Return whether an ActionTrace is final.

    It is final if

    - its execution has ended: `execution.status` is Completed, Failed or RolledBack, and
    - no assessment is outstanding: `effectiveness.dueTime` is absent or `effectiveness.assessedAt` is set.
      Go's zero time counts as absent in both.

    A controller that assesses the action later must therefore set `dueTime` no later than the step that ends
    the execution.
    """
    if string_in(mapping_in(spec, "execution"), "status") not in ENDED:
        return False
    effectiveness = mapping_in(spec, "effectiveness")
    return not is_given(effectiveness.get("dueTime")) or is_given(effectiveness.get("assessedAt"))


_MAIN_TEXTS: Final = {
    "actionType": (),
    "alert": ("name",),
    "model": ("reasoning",),
    "execution": ("error",),
    "effectiveness": ("notes",),
    "targetRef": ("kind", "namespace", "name"),
}
# The states before and after may be whole objects of the cluster, so they come last.
_ORDER_OF_OTHERS: Final = (
    "correlationID", "targetRef", "parameters", "model", "execution", "effectiveness", "alert", "stateAfter",
    "stateBefore",
)  # fmt: skip
_COLUMNS: Final = (
    Column("final", "boolean", _is_final),
    Column("correlation_id", "text", text("correlationID"), filters=("correlation_id",)),
    Column("action_type", "text", text("actionType"), filters=("type", "action")),
    Column("target_api_version", "text", text("targetRef", "apiVersion")),
    Column("target_kind", "text", text("targetRef", "kind"), filters=("target_kind",)),
    Column("target_namespace", "text", text("targetRef", "namespace"), filters=("target_namespace",)),
    Column("target_name", "text", text("targetRef", "name"), filters=("target_name",)),
    Column("alert_name", "text", text("alert", "name")),
    Column("alert_severity", "text", text("alert", "severity"), filters=("severity",)),
    Column("alert_fingerprint", "text", text("alert", "fingerprint"), filters=("alert_fingerprint",)),
    Column("model_name", "text", text("model", "name")),
    Column("model_confidence", "double precision", number("model", "confidence")),
    Column("execution_status", "text", text("execution", "status"), filters=("phase",)),
    Column("start_time", "timestamptz", time("execution", "startTime")),
    Column("end_time", "timestamptz", time("execution", "endTime")),
    Column("assessed_at", "timestamptz", time("effectiveness", "assessedAt")),
    Column("effectiveness_score", "double precision", number("effectiveness", "score")),
    search_column(_MAIN_TEXTS, _ORDER_OF_OTHERS),
)


def _sentences(spec: Spec) -> Iterator[str]:
    sentences = [
        name_words(spec.get("actionType")),
        target_words(spec, "targetRef"),
        name_words(mapping_in(spec, "alert").get("name")),
        sentence(mapping_in(spec, "model").get("reasoning")),
        sentence(mapping_in(spec, "execution").get("error")),
        sentence(mapping_in(spec, "effectiveness").get("notes")),
    ]
    if any(sentences):
        action, *rest = sentences
        yield action
        yield name_words(mapping_in(spec, "execution").get("status")).lower()
        yield from rest


def _remarks(spec: Spec) -> Iterator[str]:
    yield string_in(mapping_in(spec, "execution"), "error")
    yield string_in(mapping_in(spec, "effectiveness"), "notes")
    yield string_in(mapping_in(spec, "model"), "reasoning")


def _result(spec: Spec) -> Result:
    model, effectiveness = mapping_in(spec, "model"), mapping_in(spec, "effectiveness")
    return Result(
        error=string_in(mapping_in(spec, "execution"), "error"),
        model=string_in(model, "name"),
        confidence=number_in(model, "confidence"),
        score=number_in(effectiveness, "score"),
        notes=string_in(effectiveness, "notes"),
    )


READING: Final = Reading(
    kind=ACTION_TRACE,
    table=Table.ACTION_TRACES,
    columns=_COLUMNS,
    sentences=_sentences,
    target_field="targetRef",
    outcome=lambda spec: string_in(mapping_in(spec, "execution"), "status"),
    done=lambda spec: string_in(spec, "actionType"),
    remarks=_remarks,
    result=_result,
    is_final=_is_final,
)
