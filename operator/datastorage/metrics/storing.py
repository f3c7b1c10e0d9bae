"""Metrics of storing: from the intake to the rows in PostgreSQL, and the servers that this depends on."""

from typing import Final

from datastorage.metrics.declaring import About, Chapter, Combined, Label, Word, by, known_later, words
from datastorage.records.record import Table

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Seconds. The objective of storing, 5 seconds, is one of them."""

TABLE: Final[Label[Table]] = words("table", Table, "of the AuditRecords, of the ActionTraces")


class WriteStatus(Word):
    """What came of writing a record."""

    SUCCESS = "success", "the record is stored"
    DUPLICATE = "duplicate", "the archive had it before"
    REJECTED = "rejected", "PostgreSQL can't hold it; its bytes are kept among the rejected records"
    FAILURE = (
        "failure",
        (
            "it was not stored this time, because PostgreSQL was away or refused it, or the API said 503 at "
            "once"
        ),
    )


class Place(Word):
    """Where a record waits that PostgreSQL refuses."""

    MEMORY = "memory", "in this process"
    CLUSTER = "cluster", "as an object, until a sweep brings it back"


class Dependency(Word):
    """The servers and tables that the program needs."""

    POSTGRES = "postgres", "the PostgreSQL server of the records"
    AUDIT_RECORDS = Table.AUDIT_RECORDS.value, "the table of the AuditRecords takes rows"
    ACTION_TRACES = Table.ACTION_TRACES.value, "the table of the ActionTraces takes rows"
    EMBEDDER = "embedder", "what makes vectors of texts"
    VECTOR_STORE = "vector_store", "the tables of the vectors"
    REDIS = "redis", "the cache of vectors that all replicas share"
    STANDBY = "standby", "the standby that answers questions"


class ClusterFault(Word):
    """Why a value of an object could not be used as it is."""

    REJECTED = "rejected", "PostgreSQL can't hold the record (field `record`)"
    UNREADABLE = "unreadable", "a fault of this program: the object stays in the cluster (field `object`)"
    TIME_OUT_OF_RANGE = "time_out_of_range", "the time has no column, and is kept in the record's bytes"


TIME_FIELDS: Final = ("startTime", "endTime", "assessedAt", "expiresAt")
"""The times of objects that are read, as `datastorage_validation_failures_total` names them."""

STORING: Final = Chapter("Storing records")

WRITE_TOTAL = STORING.counters(
    "datastorage_write_total",
    by(TABLE, words("status", WriteStatus)),
    About(
        "Records written to PostgreSQL, by table and by what came of it",
        "`success` grows with the work, and `duplicate` a little after a restart. `failure` grows in an "
        "outage: the records wait in the cluster and are tried again. Look at the log for each `rejected` "
        "record.",
        'sum(rate(datastorage_write_total{status=~"failure|rejected"}[5m]))'
        " / sum(rate(datastorage_write_total[5m]))",
    ),
)
WRITE_DURATION = STORING.histograms(
    "datastorage_write_duration_seconds",
    by(TABLE),
    LATENCY_BUCKETS,
    About(
        "Duration of one transaction that stores a batch of records, by the tables it wrote to",
        "Tens of milliseconds. If it grows, PostgreSQL is short of disk or CPU.",
        "histogram_quantile(0.95, sum by (le, table) (rate(datastorage_write_duration_seconds_bucket[5m])))",
    ),
)
BATCH_SIZE = STORING.histogram(
    "datastorage_batch_size",
    (1, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000),
    About(
        "Records in one batch",
        "1 with little work, 500 with a backlog.",
        "rate(datastorage_batch_size_sum[5m]) / rate(datastorage_batch_size_count[5m])",
    ),
)
STORED_SECONDS = STORING.histogram(
    "datastorage_created_to_stored_seconds",
    LATENCY_BUCKETS,
    About(
        "Seconds from the creation of a record to the commit of its row",
        "Below a second, and below 5 for 99 of 100 records. The creation of an object is a whole second of "
        "the API server's clock, and the commit is a time of PostgreSQL's: the difference between their "
        "clocks is part of it. Only first generations count, because nothing says when a later one was made.",
        'sum(rate(datastorage_created_to_stored_seconds_bucket{le="5.0"}[5m]))'
        " / sum(rate(datastorage_created_to_stored_seconds_count[5m]))",
    ),
)
UNSTORED_COUNT = STORING.gauges(
    "datastorage_unstored_records",
    by(TABLE),
    About(
        "Records of objects that this process has taken in, or postponed, and that are not in PostgreSQL",
        "Near 0, and 0 on replicas that hold no Lease. While PostgreSQL is away, it grows until the intake "
        "is full; the rest waits in the cluster. Requests to the API don't count.",
        "sum by (table) (datastorage_unstored_records) > 0 and on ()"
        ' sum(increase(datastorage_write_total{status=~"success|duplicate"}[10m])) == 0',
    ),
)
UNSTORED_OLDEST_SECONDS = STORING.gauges(
    "datastorage_unstored_oldest_seconds",
    by(TABLE),
    About(
        "Age of the oldest record in `datastorage_unstored_records`, by its table; 0 if there is none",
        "Some seconds at most. It grows during an outage, and for a record that PostgreSQL refuses while it "
        "stores others. A later generation counts from the moment at which this process has seen it first.",
        "max by (table) (datastorage_unstored_oldest_seconds) > 300",
    ),
)
UNSTORED = {table: Combined(UNSTORED_COUNT.labels(table), sum) for table in Table}
UNSTORED_OLDEST = {table: Combined(UNSTORED_OLDEST_SECONDS.labels(table), max) for table in Table}

DIVERGED = STORING.counters(
    "datastorage_diverged_records_total",
    by(TABLE),
    About(
        "Records stored beside another content of the same uid and generation, by table",
        "0. It grows after a cluster was restored from a backup, or cloned.",
        "increase(datastorage_diverged_records_total[1h]) > 0",
    ),
)
VALIDATION_FAILURES = STORING.counters(
    "datastorage_validation_failures_total",
    by(
        known_later(
            "field",
            "of a request: the field of the schema, such as `spec.action`, and `_OTHER` for any other; of an "
            f"object: `record`, `object`, {', '.join(f'`{name}`' for name in TIME_FIELDS)}",
        ),
        known_later(
            "reason",
            "of a request: the code of the problem in the answer; of an object: "
            + "; ".join(f"`{fault.value}` ({fault.meaning})" for fault in ClusterFault),
        ),
    ),
    About(
        "Values that broke a rule, by field and reason",
        "A client that sends wrong records makes it grow, and its requests are refused. A value of an object "
        "that could not be indexed or stored as it is counts as well, and the record's bytes are kept.",
        "topk(5, sum by (field, reason) (increase(datastorage_validation_failures_total[1h]))) > 0",
        appears="At the start, for all fields of the schema with all reasons.",
    ),
)
for _field in TIME_FIELDS:
    VALIDATION_FAILURES.declare(_field, ClusterFault.TIME_OUT_OF_RANGE)
RECORD_REJECTED = VALIDATION_FAILURES.declare("record", ClusterFault.REJECTED)
OBJECT_UNREADABLE = VALIDATION_FAILURES.declare("object", ClusterFault.UNREADABLE)

INTAKE_DEPTH = STORING.gauge(
    "datastorage_intake_depth",
    About(
        "Records taken in and waiting to be stored",
        "Near 0, or falling. If it stays high, records come faster than PostgreSQL stores them.",
        "sum(datastorage_intake_depth)",
    ),
)
INTAKE_BYTES = STORING.gauge(
    "datastorage_intake_bytes",
    About(
        "Bytes of the records taken in and waiting to be stored",
        "Bounded by `DATASTORAGE_INTAKE_MAX_BYTES`, most of what a backlog takes of the memory.",
        "max(datastorage_intake_bytes)",
    ),
)
REFUSED_BATCHES = STORING.counter(
    "datastorage_refused_batches_total",
    About(
        "Batches that PostgreSQL refused, or took too long for, while it served others; they are divided",
        "0, or a few after a record that PostgreSQL can't hold.",
        "increase(datastorage_refused_batches_total[1h])",
    ),
)
WAITING_RECORDS = STORING.gauges(
    "datastorage_waiting_records",
    by(words("place", Place)),
    About(
        "Records that PostgreSQL refuses while it stores others, by where they wait to be tried again",
        "0. The log has a line for each, with the reason.",
        "sum(datastorage_waiting_records) > 0",
    ),
)
DEPENDENCY_UP = STORING.gauges(
    "datastorage_dependency_up",
    by(words("dependency", Dependency)),
    About(
        "1 while a dependency serves, 0 while it is away",
        "1. Only `postgres` stops the archive, and only the table of a kind stops that kind; without the "
        "others, records are stored and their vectors follow.",
        'min by (dependency) (datastorage_dependency_up{dependency="postgres"}) == 0',
        appears="At the start, for the dependencies that the settings name: a missing one is not needed.",
    ),
)
DEPENDENCY_ERRORS = STORING.counters(
    "datastorage_dependency_errors_total",
    by(words("dependency", Dependency)),
    About(
        "Operations that failed because a dependency could not serve, and are repeated or done later",
        "0. A few without an outage in `datastorage_dependency_up` are a network that drops connections.",
        "sum by (dependency) (rate(datastorage_dependency_errors_total[5m])) > 0",
    ),
)
