"""Defines all metrics that the program exports, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from datastorage import __version__


class Share:
    """One component's share of a gauge, which is the sum of all shares."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0.0

    def set(self, value: float) -> None:
        """Change the share; the gauge changes by the difference."""
        self._gauge.inc(value - self._value)
        self._value = value

    def close(self) -> None:
        """Remove the share when its component ends."""
        self.set(0.0)


REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

_SIZE_BUCKETS = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)

BUILD_INFO = Info("datastorage_build", "Version of the running program", registry=REGISTRY)
BUILD_INFO.info({"version": __version__})

WRITE_TOTAL = Counter(
    "datastorage_write_total",
    "Records written to PostgreSQL, by table and by outcome: success, duplicate (was there before), rejected,"
    " failure (not stored this time: PostgreSQL was away or refused the batch, or the API said 503 at once)",
    ["table", "status"],
    registry=REGISTRY,
)
DIVERGED = Counter(
    "datastorage_diverged_records_total",
    "Records stored beside another content of the same uid and generation, by table: a cluster was restored "
    "from a backup, or cloned",
    ["table"],
    registry=REGISTRY,
)
ROWS_MISSING = Counter(
    "datastorage_rows_missing_total",
    "Objects whose status said that they are stored while the archive did not have their rows, by phase; "
    "they are stored again",
    ["phase"],
    registry=REGISTRY,
)
WRITE_DURATION = Histogram(
    "datastorage_write_duration_seconds",
    "Duration of one transaction that stores a batch of records, by the tables it wrote to",
    ["table"],
    registry=REGISTRY,
    buckets=_LATENCY_BUCKETS,
)
BATCH_SIZE = Histogram(
    "datastorage_batch_size",
    "Records in one batch",
    registry=REGISTRY,
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000),
)
STORED_SECONDS = Histogram(
    "datastorage_created_to_stored_seconds",
    "Seconds from the creation of an object (a whole second, by the API server's clock) to the commit of its "
    "row (by PostgreSQL's)",
    registry=REGISTRY,
    buckets=_LATENCY_BUCKETS,
)
VALIDATION_FAILURES = Counter(
    "datastorage_validation_failures_total",
    "Values that broke a rule, by field and reason. Of the API: the field of the schema (`spec.action`) and "
    "the code of the problem, and the record is refused. Of the cluster: what could not be indexed or stored "
    "as it is, and the record's bytes are kept",
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
    "Objects seen by the watch and the sweep, by verdict: accepted, duplicate, settled, waiting, full, "
    "unreadable",
    ["verdict"],
    registry=REGISTRY,
)
FALLBACK_TOTAL = Counter(
    "datastorage_api_fallback_total",
    "Requests whose record was to become a custom resource while PostgreSQL was away, by outcome: created, "
    "repeated (it was there already), failed",
    ["outcome"],
    registry=REGISTRY,
)
REFUSED_BATCHES = Counter(
    "datastorage_refused_batches_total",
    "Batches that PostgreSQL refused, or took too long for, while it served others; they are divided",
    registry=REGISTRY,
)
WAITING_RECORDS = Gauge(
    "datastorage_waiting_records",
    "Records that PostgreSQL refuses while it stores others, by where they wait to be tried again: memory, "
    "cluster",
    ["place"],
    registry=REGISTRY,
)
STATUS_DEPTH = Gauge(
    "datastorage_status_queue_depth",
    "Stored records waiting for their status to be written",
    registry=REGISTRY,
)
STATUS_TOTAL = Counter(
    "datastorage_status_writes_total",
    "Status writes, and the deletions that take their place at ttl 0, by outcome: success, gone, changed, "
    "too_large, refused, retried, abandoned",
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
    "Stored objects that came up for deletion, by outcome: deleted (also by the status writer, at ttl 0), "
    "gone, changed, unconfirmed, held, refused",
    ["outcome"],
    registry=REGISTRY,
)
GC_SCHEDULED = Gauge(
    "datastorage_gc_scheduled", "Stored objects that wait for their time to be deleted", registry=REGISTRY
)
WATCH_RESTARTS = Counter(
    "datastorage_watch_restarts_total",
    "Times the watch had to be started again from scratch",
    registry=REGISTRY,
)
LEASE_HELD = Gauge(
    "datastorage_lease_held",
    "1 while this process holds the Lease, and so processes the shard's objects; 0 while another one may",
    ["lease"],
    registry=REGISTRY,
)
GUARD_IN_FORCE = Gauge(
    "datastorage_guard_in_force",
    "1 while an admission policy that guards the records is in force as this release brings it, 0 if it is "
    "missing, differs or can't be looked at: change-guard, definition-guard, deletion-guard, status-guard",
    ["guard"],
    registry=REGISTRY,
)
DEPENDENCY_UP = Gauge(
    "datastorage_dependency_up",
    "1 while a dependency serves, 0 while it is away: postgres, audit_records and action_traces "
    "(the tables of the rows), embedder, vector_store, redis, standby",
    ["dependency"],
    registry=REGISTRY,
)
DEPENDENCY_ERRORS = Counter(
    "datastorage_dependency_errors_total",
    "Operations that failed because a dependency could not serve, and are repeated or done later",
    ["dependency"],
    registry=REGISTRY,
)
DUALWRITE_SUCCESS = Counter(
    "datastorage_dualwrite_success_total",
    "Records stored together with their vectors",
    registry=REGISTRY,
)
DUALWRITE_FAILURE = Counter(
    "datastorage_dualwrite_failure_total",
    "Records stored without their vectors, by the reason: embedder_unavailable, embedding_refused, "
    "vector_store_unavailable, following",
    ["reason"],
    registry=REGISTRY,
)
FALLBACK_MODE = Counter(
    "datastorage_fallback_mode_total",
    "Records stored in fallback mode: safe in PostgreSQL, their vectors pending",
    registry=REGISTRY,
)
CACHE_HITS = Counter(
    "datastorage_cache_hits_total",
    "Vectors found in a cache, by tier: memory, redis",
    ["tier"],
    registry=REGISTRY,
)
CACHE_MISSES = Counter(
    "datastorage_cache_misses_total",
    "Vectors that no cache had and the provider had to make",
    registry=REGISTRY,
)
CACHE_ERRORS = Counter(
    "datastorage_cache_errors_total",
    "Uses of the cache that were skipped, by reason: unavailable, garbage (no vector of this model)",
    ["reason"],
    registry=REGISTRY,
)
EMBEDDING_DURATION = Histogram(
    "datastorage_embedding_generation_duration_seconds",
    "Duration of one call to the embedding provider, for any number of texts",
    registry=REGISTRY,
    buckets=_LATENCY_BUCKETS,
)
EMBEDDED_TEXTS = Counter(
    "datastorage_embedding_texts_total",
    "Texts given to the embedding provider, by outcome: success, refused",
    ["outcome"],
    registry=REGISTRY,
)
OUTBOX_DEPTH = Gauge(
    "datastorage_outbox_depth",
    "Records whose vectors are pending, can't be made (failed) or were given up (dropped), by state",
    ["state"],
    registry=REGISTRY,
)
OUTBOX_AGE = Gauge(
    "datastorage_outbox_oldest_seconds",
    "Seconds for which the oldest pending vector has waited",
    registry=REGISTRY,
)
OUTBOX_SETTLED = Counter(
    "datastorage_outbox_settled_total",
    "Pending vectors that were dealt with, by outcome: written, failed",
    ["outcome"],
    registry=REGISTRY,
)
VECTOR_INDEX_STEPS = Counter(
    "datastorage_vector_index_steps_total",
    "Steps of building and merging indexes of vectors, by outcome: success, failed",
    ["outcome"],
    registry=REGISTRY,
)
CALLER_REVIEWS = Counter(
    "datastorage_caller_reviews_total",
    "Questions about callers of the API, by review (token: who it is, access: what it may do) and outcome: "
    "hit (the answer was remembered, or asked for already), miss (the API server was asked), error (it was "
    "asked and gave no answer), busy (too many reviews were under way)",
    ["review", "outcome"],
    registry=REGISTRY,
)
LOOP_HELD = Histogram(
    "datastorage_event_loop_held_seconds",
    "Delays of the event loop, measured 40 times a second: for so long, a piece of work has held it",
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LIMITS_HIT = Counter(
    "datastorage_limits_hit_total",
    "Times that a client was refused or cut off because of a limit of the API, by limit: rate and "
    "requests_of_one_identity (429), requests (under way), request_bytes and answer_bytes (of all requests), "
    "answers (made at once), exports (under way), connections, handshakes",
    ["limit"],
    registry=REGISTRY,
)
REPLICA_LAG = Gauge(
    "datastorage_replica_lag_seconds",
    "Seconds, at most, by which the standby that answers questions lags; 0 without a standby",
    registry=REGISTRY,
)
STANDBY_SKIPPED = Counter(
    "datastorage_standby_skipped_total",
    "Questions that went to the primary in place of the standby, by reason: away, refused (the standby "
    "cancelled the question, because it has to apply changes), not_found (a record that it does not have, or "
    "not yet)",
    ["reason"],
    registry=REGISTRY,
)
HANDSHAKES = Counter(
    "datastorage_tls_handshakes_total",
    "Handshakes on the API port with TLS, by outcome: success, failed, timeout, dropped (too many were under "
    "way), plain_http (the client spoke no TLS)",
    ["outcome"],
    registry=REGISTRY,
)
CERTIFICATE_END = Gauge(
    "datastorage_tls_certificate_expiration_timestamp_seconds",
    "When the certificate in use expires, in seconds since 1970, by port: api. There is none without TLS",
    ["port"],
    registry=REGISTRY,
)
CERTIFICATE_LOADS = Counter(
    "datastorage_tls_certificate_loads_total",
    "Times that a certificate was read, at the start and after each change, by outcome: success, failed (the "
    "one before stays in use)",
    ["outcome"],
    registry=REGISTRY,
)
HTTP_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of requests to the API port until the last byte of the answer, by method, template of the path "
    "and status. `_OTHER` stands for a method or path that the API does not have",
    ["http_request_method", "http_route", "http_response_status_code"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
HTTP_ACTIVE = Gauge(
    "http_server_active_requests",
    "Requests to the API port that are under way, by method",
    ["http_request_method"],
    registry=REGISTRY,
)
HTTP_BODY_SIZE = Histogram(
    "http_server_request_body_size_bytes",
    "Announced sizes of the bodies of requests, by method and template of the path",
    ["http_request_method", "http_route"],
    registry=REGISTRY,
    buckets=_SIZE_BUCKETS,
)
HTTP_ANSWER_SIZE = Histogram(
    "http_server_response_body_size_bytes",
    "Sizes of the bodies of answers, by method and template of the path",
    ["http_request_method", "http_route"],
    registry=REGISTRY,
    buckets=_SIZE_BUCKETS,
)
CALLER_REVIEW_DURATION = Histogram(
    "datastorage_caller_review_duration_seconds",
    "Duration of the questions about callers that the API server was asked, by review: token, access",
    ["review"],
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
QUERY_TOTAL = Counter(
    "datastorage_query_total",
    "Queries of the archive, by operation (search_vector, search_text, search_hybrid, list, get, timeline, "
    "history, summary) and status: success, invalid, error",
    ["operation", "status"],
    registry=REGISTRY,
)
QUERY_DURATION = Histogram(
    "datastorage_query_duration_seconds",
    "Duration of queries of the archive, by operation",
    ["operation"],
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
EXPORT_TOTAL = Counter(
    "datastorage_export_total",
    "Exports by the API that have ended, by outcome: complete, broken_off (something was away, or a right "
    "taken away), abandoned (the client has gone, or was too slow)",
    ["outcome"],
    registry=REGISTRY,
)
EXPORT_RECORDS = Counter("datastorage_export_records_total", "Records in exports", registry=REGISTRY)
EXPORT_BYTES = Counter(
    "datastorage_export_bytes_total", "Bytes of the lines of exports, uncompressed", registry=REGISTRY
)
