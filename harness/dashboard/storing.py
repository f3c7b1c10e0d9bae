"""Panels about records: how many are stored, how quickly, and what is wrong with some."""

from typing import Final

from harness.dashboard.model import Panel, Query, Row, Unit, quantile, rate

_WRITES: Final = "datastorage_write_duration_seconds"
_FAILURES: Final = "datastorage_validation_failures_total"

STORING: Final = Row(
    "Storing records",
    (
        Panel(
            "Write rate",
            Unit.RECORDS_A_SECOND,
            "Attempts to store a record in PostgreSQL, by what came of them.",
            "Only `success` follows the work. `duplicate` grows a little after a restart. `failure` means "
            "that PostgreSQL was away: what comes from the cluster is tried again. Each `rejected` record "
            "is in the log.",
            (Query(f"sum by (status) ({rate('datastorage_write_total{$own}')})", "{{status}}"),),
            alerts=("DataStorageHighWriteErrorRate", "DataStorageRecordRejected"),
        ),
        Panel(
            "Write duration",
            Unit.SECONDS,
            "How long the transaction that stores a batch takes: 95 and 99 of 100 are quicker.",
            "Tens of milliseconds. If it grows while the write rate does not, PostgreSQL is short of disk "
            "or CPU.",
            (Query(quantile(0.95, _WRITES), "p95"), Query(quantile(0.99, _WRITES), "p99")),
        ),
        Panel(
            "Validation failures by field",
            Unit.VALUES_A_SECOND,
            "Values that break a rule, by field and reason. In a request, the client has sent something "
            "wrong.",
            "Empty. A field that stays here belongs to a client that needs a correction: its requests are "
            "refused.",
            (
                Query(
                    f"topk(10, sum by (field, reason) ({rate(f'{_FAILURES}{{$own}}')}) > 0)",
                    "{{field}}: {{reason}}",
                ),
            ),
            empty="no failures",
        ),
        Panel(
            "Validation failure rate",
            Unit.VALUES_A_SECOND,
            "All values that break a rule, together.",
            "0. A jump at the time of a roll-out says that the new release of some client sends wrong "
            "records.",
            (Query(f"sum({rate(f'{_FAILURES}{{$own}}')})", "all fields"),),
        ),
    ),
)
