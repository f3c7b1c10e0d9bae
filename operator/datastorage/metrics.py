"""The metrics that the program exports, all in one place and in its own registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from datastorage import __version__

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

BUILD_INFO = Info("datastorage_build", "Version of the running program", registry=REGISTRY)
BUILD_INFO.info({"version": __version__})

WRITE_TOTAL = Counter(
    "datastorage_write_total",
    "Records written to PostgreSQL, by table and by outcome: success, duplicate (was there before), rejected",
    ["table", "status"],
    registry=REGISTRY,
)
WRITE_DURATION = Histogram(
    "datastorage_write_duration_seconds",
    "Duration of one transaction that stores a batch of records, by the tables it wrote to",
    ["table"],
    registry=REGISTRY,
    buckets=_LATENCY_BUCKETS,
)
POSTGRES_ERRORS = Counter(
    "datastorage_postgres_errors_total",
    "Operations that failed because PostgreSQL could not serve, and are repeated",
    registry=REGISTRY,
)
BATCH_SIZE = Histogram(
    "datastorage_batch_size",
    "Records in one batch",
    registry=REGISTRY,
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000),
)
STORED_SECONDS = Histogram(
    "datastorage_created_to_stored_seconds",
    "Seconds from the creation of an object (a whole second) to the commit of its row",
    registry=REGISTRY,
    buckets=_LATENCY_BUCKETS,
)
VALIDATION_FAILURES = Counter(
    "datastorage_validation_failures_total",
    "Values that could not be indexed or stored as they are; the record's bytes are kept in any case",
    ["field", "reason"],
    registry=REGISTRY,
)
INTAKE_DEPTH = Gauge(
    "datastorage_intake_depth", "Records taken in and waiting to be stored", registry=REGISTRY
)
INTAKE_BYTES = Gauge(
    "datastorage_intake_bytes", "Bytes of the records taken in and waiting to be stored", registry=REGISTRY
)
INTAKE_TOTAL = Counter(
    "datastorage_intake_total",
    "Objects seen by the watch and the sweep, by verdict: accepted, duplicate, settled, full, unreadable",
    ["verdict"],
    registry=REGISTRY,
)
STATUS_DEPTH = Gauge(
    "datastorage_status_queue_depth",
    "Stored records waiting for their status to be written",
    registry=REGISTRY,
)
STATUS_TOTAL = Counter(
    "datastorage_status_writes_total",
    "Status writes (at ttl 0 deletions): success, gone, changed, too_large, refused, retried, abandoned",
    ["outcome"],
    registry=REGISTRY,
)
SWEEP_TOTAL = Counter(
    "datastorage_sweep_total",
    "Sweeps over the cluster's unstored objects, by outcome",
    ["outcome"],
    registry=REGISTRY,
)
SWEEP_OBJECTS = Counter(
    "datastorage_sweep_objects_total", "Objects that sweeps have looked at", registry=REGISTRY
)
GC_TOTAL = Counter(
    "datastorage_gc_total",
    "Objects handled by the garbage collector: deleted, gone, changed, unconfirmed, held, refused",
    ["outcome"],
    registry=REGISTRY,
)
GC_SCHEDULED = Gauge(
    "datastorage_gc_scheduled", "Stored objects that wait for their time to be deleted", registry=REGISTRY
)
WATCH_RESTARTS = Counter(
    "datastorage_watch_restarts_total",
    "Times the watch had to be started again from nothing",
    registry=REGISTRY,
)
POSTGRES_UP = Gauge(
    "datastorage_postgres_up", "1 while PostgreSQL serves, 0 while it is away", registry=REGISTRY
)
