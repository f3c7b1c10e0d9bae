"""Metrics of the vectors: making, caching and writing them, with the records or later."""

from typing import Final

from datastorage.metrics.clearing import Completion
from datastorage.metrics.declaring import About, Chapter, Label, Word, by, words
from datastorage.metrics.storing import LATENCY_BUCKETS
from datastorage.records.vectorwrite import OutboxState


class VectorFailure(Word):
    """Why a record was stored without its vector; the names are those of the reasons in the status."""

    EMBEDDER_UNAVAILABLE = "embedder_unavailable", "the embedder did not serve"
    EMBEDDING_REFUSED = "embedding_refused", "the embedder can't make a vector of this text"
    VECTOR_STORE_UNAVAILABLE = "vector_store_unavailable", "the tables of the vectors accepted nothing"
    QUEUED = "queued", "vectors are made in the background, after the rows"
    FOLLOWING = "following", "the vectors are on another server, to which they are written after the rows"


class CacheTier(Word):
    """The caches of vectors."""

    MEMORY = "memory", "in this process"
    REDIS = "redis", "in Redis, which all replicas share"


class CacheError(Word):
    """Why the cache was not used."""

    UNAVAILABLE = "unavailable", "Redis is away"
    GARBAGE = "garbage", "Redis has something else than a vector of this model"


class EmbeddedOutcome(Word):
    """What came of a text that was given to the provider."""

    SUCCESS = "success", "it has a vector"
    REFUSED = "refused", "it gets none"


class SettledOutcome(Word):
    """What came of a pending vector."""

    WRITTEN = "written", "it is written"
    FAILED = "failed", "it can't be made"


VECTORS: Final = Chapter("Vectors")
_STATE: Final[Label[OutboxState]] = words(
    "state", OutboxState, "to be written, can't be made, given up by a person"
)

DUALWRITE_SUCCESS = VECTORS.counter(
    "datastorage_dualwrite_success_total",
    About(
        "Records stored together with their vectors",
        "As many as are stored, where vectors are kept on the same server.",
        "sum(rate(datastorage_dualwrite_success_total[5m]))",
    ),
)
DUALWRITE_FAILURE = VECTORS.counters(
    "datastorage_dualwrite_failure_total",
    by(words("reason", VectorFailure)),
    About(
        "Records stored without their vectors, by reason",
        "0. `following` counts every record if the vectors have a server of their own, `queued` if they are "
        "made in the background; neither is a fault.",
        "sum by (reason) (rate(datastorage_dualwrite_failure_total[5m]))",
    ),
)
FALLBACK_MODE = VECTORS.counter(
    "datastorage_fallback_mode_total",
    About(
        "Records stored in fallback mode: safe in PostgreSQL, their vectors pending",
        "0. Searches by meaning don't find these records until the vectors are written. Vectors that follow "
        "to a server of their own, or are made in the background, don't count.",
        "sum(increase(datastorage_fallback_mode_total[5m])) > 0",
    ),
)
CACHE_HITS = VECTORS.counters(
    "datastorage_cache_hits_total",
    by(words("tier", CacheTier)),
    About(
        "Vectors found in a cache, by tier",
        "The same event again is a hit. The share of hits depends on how often events repeat.",
        "sum(rate(datastorage_cache_hits_total[15m])) / (sum(rate(datastorage_cache_hits_total[15m]))"
        " + sum(rate(datastorage_cache_misses_total[15m])))",
    ),
)
CACHE_MISSES = VECTORS.counter(
    "datastorage_cache_misses_total",
    About(
        "Vectors that no cache had and the provider had to make",
        "As many as there are new texts. It grows after a restart without Redis.",
        "sum(rate(datastorage_cache_misses_total[5m]))",
    ),
)
CACHE_ERRORS = VECTORS.counters(
    "datastorage_cache_errors_total",
    by(words("reason", CacheError)),
    About(
        "Uses of the cache that were skipped, by reason",
        "0. Without Redis, vectors are made again, and nothing else happens.",
        "sum by (reason) (increase(datastorage_cache_errors_total[5m])) > 0",
    ),
)
EMBEDDING_DURATION = VECTORS.histogram(
    "datastorage_embedding_generation_duration_seconds",
    LATENCY_BUCKETS,
    About(
        "Duration of one call to the embedding provider, for any number of texts",
        "Milliseconds for `wordllama`, tenths of a second for a server, seconds for 500 texts with `onnx`. "
        "After 2 seconds, records are stored without their vectors, unless these are made in the background.",
        "histogram_quantile(0.95,"
        " sum by (le) (rate(datastorage_embedding_generation_duration_seconds_bucket[5m])))",
    ),
)
EMBEDDED_TEXTS = VECTORS.counters(
    "datastorage_embedding_texts_total",
    by(words("outcome", EmbeddedOutcome)),
    About(
        "Texts given to the embedding provider, by outcome",
        "`refused` is 0 with `wordllama`.",
        'sum(increase(datastorage_embedding_texts_total{outcome="refused"}[1h])) > 0',
    ),
)
OUTBOX_DEPTH = VECTORS.gauges(
    "datastorage_outbox_depth",
    by(_STATE),
    About(
        "Records whose vectors are pending, can't be made (failed) or were given up (dropped), by state",
        "0 pending. Every replica counts the same table every 15 seconds.",
        'max(datastorage_outbox_depth{state="pending"})',
    ),
)
OUTBOX_AGE = VECTORS.gauge(
    "datastorage_outbox_oldest_seconds",
    About(
        "Seconds for which the oldest pending vector has waited",
        "Some seconds. If it grows, the embedder or the tables of the vectors are away.",
        "max(datastorage_outbox_oldest_seconds) > 600",
    ),
)
OUTBOX_SETTLED = VECTORS.counters(
    "datastorage_outbox_settled_total",
    by(words("outcome", SettledOutcome)),
    About(
        "Pending vectors that were dealt with, by outcome",
        "It grows after an outage of the embedder, until `datastorage_outbox_depth` is 0.",
        "sum by (outcome) (rate(datastorage_outbox_settled_total[5m]))",
    ),
)
VECTOR_INDEX_STEPS = VECTORS.counters(
    "datastorage_vector_index_steps_total",
    by(words("outcome", Completion)),
    About(
        "Steps of building and merging indexes of vectors, by outcome",
        "A few an hour at full speed. After a failure, searches read the vectors that have no index, and are "
        "slower.",
        'sum(increase(datastorage_vector_index_steps_total{outcome="failed"}[1h])) > 0',
    ),
)
