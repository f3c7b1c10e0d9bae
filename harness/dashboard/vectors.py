"""Panels about vectors: made, cached, and written with the records or later."""

from typing import Final

from harness.dashboard.model import Limit, Panel, Query, Row, Unit, quantile, rate

_MADE: Final = "datastorage_embedding_generation_duration_seconds"
_HITS: Final = rate("datastorage_cache_hits_total{$own}")
_MISSES: Final = rate("datastorage_cache_misses_total{$own}")

VECTORS: Final = Row(
    "Vectors",
    (
        Panel(
            "Dual-write success and failure",
            Unit.RECORDS_A_SECOND,
            "Records stored together with their vectors, and records stored without them, by reason.",
            "Only `with vector`. The reason `following` is normal where the vectors have a server of their "
            "own, and `queued` where they are made in the background: they are written after the records.",
            (
                Query(f"sum({rate('datastorage_dualwrite_success_total{$own}')})", "with vector"),
                Query(
                    f"sum by (reason) ({rate('datastorage_dualwrite_failure_total{$own}')})",
                    "without: {{reason}}",
                ),
            ),
            alerts=("DataStorageVectorDBDegraded",),
        ),
        Panel(
            "Fallback operations",
            Unit.RECORDS_A_SECOND,
            "Records stored without a vector because the embedder or the tables of the vectors are away; "
            "and requests that became custom resources because PostgreSQL is away, by outcome.",
            "0. The records are safe. Search by meaning lacks them until their vectors are written; the "
            "panel Outbox shows when.",
            (
                Query(f"sum({rate('datastorage_fallback_mode_total{$own}')})", "vector pending"),
                Query(
                    f"sum by (outcome) ({rate('datastorage_api_fallback_total{$own}')})",
                    "as custom resource: {{outcome}}",
                ),
            ),
            alerts=("DataStorageVectorDBDegraded",),
        ),
        Panel(
            "Cache hit rate",
            Unit.SHARE,
            "Share of the vectors that a cache had, so that the embedder did not have to make them.",
            "It depends on how often events repeat, and stays about the same from day to day. It falls for "
            "a while after a restart without Redis. Nothing fails when it is low, but storing and searching "
            "cost more.",
            (
                Query(f"sum({_HITS}) / (sum({_HITS}) + sum({_MISSES}))", "all caches"),
                Query(
                    f"sum by (tier) ({_HITS}) / on () group_left () (sum({_HITS}) + sum({_MISSES}))",
                    "{{tier}}",
                ),
            ),
            limits=(Limit(0.5, "warning", "below"),),
            alerts=("DataStorageLowCacheHitRate",),
        ),
        Panel(
            "Embedding duration",
            Unit.SECONDS,
            "How long a call to the embedder takes, whatever the number of its texts: 95 of 100 are quicker.",
            "Milliseconds for the embedder in the process, tenths of a second for a server. After 2 "
            "seconds, records are stored without their vectors.",
            (Query(quantile(0.95, _MADE), "p95"),),
        ),
    ),
)
