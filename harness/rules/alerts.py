"""The alerts about what is wrong now; ``objectives.py`` has those about budgets.

Each names the smallest traffic that it judges, where it judges a share: one failure of two is no state of
the service. Counts of single events that must never happen, such as a rejected record, have no such limit.
"""

from typing import Final

from harness.rules.model import Alert, Group

_FEWEST_FAILURES: Final = 5
_FEWEST_LOOKUPS: Final = 20
_FEWEST_SEARCHES: Final = 10
_BY_MEANING: Final = 'operation=~"search_vector|search_hybrid"'


def _failing(counter: str, failed: str, *, of: str = "") -> str:
    """Return the share of failures of a counter, where it is above 5 % and not of a few."""
    counted = f"$own,{of}" if of else "$own"
    return (
        f"sum by ($each) (rate({counter}{{$own,{failed}}}[5m]))\n"
        f"/ sum by ($each) (rate({counter}{{{counted}}}[5m])) > 0.05\n"
        f"and sum by ($each) (increase({counter}{{$own,{failed}}}[5m])) > $events({_FEWEST_FAILURES})"
    )


_STORING: Final = (
    Alert(
        name="DataStorageHighWriteErrorRate",
        severity="critical",
        lasting="5m",
        expression=_failing("datastorage_write_total", 'status="failure"'),
        summary="More than 5 % of the writes to PostgreSQL fail",
        description="{{ $value | humanizePercentage }} of the attempts to store a record have failed in "
        "the last 5 minutes. What comes from the cluster is tried again; requests to the REST API fail.",
        meaning="Clients of the REST API get 503 for their records. Records in the cluster wait there.",
    ),
    Alert(
        name="DataStoragePostgreSQLFailure",
        severity="critical",
        lasting="1m",
        expression=(
            "min by ($each, dependency) (\n"
            '  datastorage_dependency_up{$own,dependency=~"postgres|audit_records|action_traces"}\n'
            ") == 0"
        ),
        summary="PostgreSQL does not serve: {{ $labels.dependency }}",
        description="A replica can't use {{ $labels.dependency }} (postgres is the server, the others are "
        "its tables). Nothing is stored there until it serves again.",
        meaning="Records wait in the cluster, and nothing is deleted from it. The REST API answers 503.",
    ),
    Alert(
        name="DataStorageArchivingStalled",
        severity="critical",
        lasting="5m",
        expression=(
            "sum by ($each) (datastorage_unstored_records{$own}) > 0\n"
            "and sum by ($each) (\n"
            '  increase(datastorage_write_total{$own,status=~"success|duplicate|rejected"}[5m])\n'
            ") == 0"
        ),
        summary="Records wait, and nothing is archived",
        description="{{ $value }} records are taken in and wait, and none was stored in the last 5 minutes.",
        meaning="New records are not found in the archive. They are safe in the cluster, and fill etcd.",
    ),
    Alert(
        name="DataStorageUnstoredRecordTooOld",
        severity="critical",
        lasting="5m",
        expression="max by ($each, table) (datastorage_unstored_oldest_seconds{$own}) > $seconds(5m)",
        summary="A record has waited for more than 5 minutes to be stored in {{ $labels.table }}",
        description="The oldest record that is not in {{ $labels.table }} is {{ $value | humanizeDuration }} "
        "old.",
        meaning="At least one record is not in the archive. Either all wait, or all of one table, or "
        "PostgreSQL refuses this one.",
    ),
    Alert(
        name="DataStorageRecordRejected",
        severity="warning",
        lasting="0s",
        expression=(
            'sum by ($each, table) (increase(datastorage_write_total{$own,status="rejected"}[1h])) > 0'
        ),
        summary="Records were rejected: {{ $labels.table }} can't hold them",
        description='In the last hour, {{ $value | printf "%.0f" }} records were rejected. Their bytes are '
        "kept, and their objects say Rejected.",
        meaning="No search finds a rejected record. Nothing is lost: `datastorage rejected` shows it "
        "and tries again.",
    ),
)

_CLEARING: Final = (
    Alert(
        name="DataStorageShardWithoutHolder",
        severity="critical",
        lasting="1m",
        expression="max by ($each, lease) (datastorage_lease_held{$own}) == 0",
        summary="No replica holds the Lease {{ $labels.lease }}",
        description="The objects of this shard are not taken in, and none of them is deleted.",
        meaning="Records of this shard stay in the cluster unstored, or come late by the sweep of another "
        "shard. Replicas that are ready go on answering REST requests.",
    ),
    Alert(
        name="DataStorageStatusRefused",
        severity="warning",
        lasting="5m",
        expression=(
            'sum by ($each) (increase(datastorage_status_writes_total{$own,outcome="refused"}[10m])) > 0'
        ),
        summary="The API server refuses to write the status of records",
        description='{{ $value | printf "%.0f" }} status writes were refused in the last 10 minutes. The '
        "records are stored, but their objects do not say so.",
        meaning="Objects have no phase, stay in the cluster and can't be deleted, although the archive has "
        "them.",
    ),
    Alert(
        name="DataStorageUnconfirmedDeletion",
        severity="critical",
        lasting="0s",
        expression=(
            'sum by ($each) (increase(datastorage_gc_total{$own,outcome="unconfirmed"}[1h]))\n'
            "+ sum by ($each) (increase(datastorage_rows_missing_total{$own}[1h])) > 0"
        ),
        summary="The archive does not have rows of objects that say Stored",
        description="In the last hour, a row was missing when an object was to be deleted, or looked at. The "
        "object stays and is stored again, but rows of objects that are gone may be missing as well.",
        meaning="PostgreSQL has lost rows: it was restored, or a failover lost the last commits.",
    ),
    Alert(
        name="DataStorageGuardNotInForce",
        severity="critical",
        lasting="5m",
        expression="max by ($each, guard) (datastorage_guard_in_force{$own}) == 0",
        summary="The {{ $labels.guard }} is not in force",
        description="The admission policy {{ $labels.guard }} is missing, differs from that of the release, "
        "or can't be looked at.",
        meaning="What the guard refuses is possible now, such as to delete a record before it is stored.",
    ),
    Alert(
        name="DataStorageAbsent",
        severity="critical",
        lasting="2m",
        expression="absent(datastorage_build_info{$own})",
        summary="Prometheus reaches no replica of the Data Storage operator",
        description="No replica runs, or the way from Prometheus to the metrics is blocked. No other alert "
        "of the operator can fire meanwhile.",
        meaning="Perhaps nothing is stored and no question is answered; perhaps Prometheus alone is cut off.",
    ),
)

_VECTORS: Final = (
    Alert(
        name="DataStorageVectorDBDegraded",
        severity="warning",
        lasting="5m",
        # The second part is for times in which nothing is stored, and for vectors on a server of their own:
        # they follow the records, which is no fallback.
        expression=(
            "sum by ($each) (increase(datastorage_fallback_mode_total{$own}[5m])) > 0\n"
            'or min by ($each) (datastorage_dependency_up{$own,dependency=~"embedder|vector_store"}) == 0'
        ),
        summary="Records are stored without their vectors",
        description="The embedder or the tables of the vectors are away. Records are safe; their vectors are "
        "pending and are written later.",
        meaning="Search by meaning does not find the newest records. Search by words does.",
    ),
    Alert(
        name="DataStorageOutboxGrowing",
        severity="warning",
        lasting="5m",
        expression=(
            "max by ($each) (datastorage_outbox_oldest_seconds{$own}) > $seconds(15m)\n"
            'and max by ($each) (delta(datastorage_outbox_depth{$own,state="pending"}[15m])) >= 0'
        ),
        summary="Pending vectors wait for more than 15 minutes, and do not become fewer",
        description="The oldest pending vector has waited for {{ $value | humanizeDuration }}.",
        meaning="Search by meaning lacks these records. Their objects are Degraded, or Stored with a pending "
        "vector, and leave the cluster at their time all the same.",
    ),
    Alert(
        name="DataStorageLowCacheHitRate",
        severity="warning",
        lasting="15m",
        expression=(
            "sum by ($each) (rate(datastorage_cache_hits_total{$own}[15m]))\n"
            "/ (\n"
            "  sum by ($each) (rate(datastorage_cache_hits_total{$own}[15m]))\n"
            "  + sum by ($each) (rate(datastorage_cache_misses_total{$own}[15m]))\n"
            ") < 0.5\n"
            "and (\n"
            "  sum by ($each) (increase(datastorage_cache_hits_total{$own}[15m]))\n"
            "  + sum by ($each) (increase(datastorage_cache_misses_total{$own}[15m]))\n"
            f") > $events({_FEWEST_LOOKUPS})"
        ),
        summary="Less than half of the vectors come from the cache",
        description="{{ $value | humanizePercentage }} of the vectors came from a cache in the last 15 "
        "minutes; the embedder made the others.",
        meaning="Storing and searching cost more time, and an embedding service more money. Nothing fails.",
    ),
)

_ASKING: Final = (
    Alert(
        name="DataStorageHighQueryErrorRate",
        severity="critical",
        lasting="5m",
        expression=_failing("datastorage_query_total", 'status="error"', of='status!="invalid"'),
        summary="More than 5 % of the questions to the archive fail",
        description="{{ $value | humanizePercentage }} of the questions have failed in the last 5 minutes. "
        "Questions that are wrong themselves do not count.",
        meaning="People and programs that ask the archive get errors.",
    ),
    Alert(
        name="DataStorageSlowSemanticSearch",
        severity="warning",
        lasting="10m",
        expression=(
            "histogram_quantile(0.95, sum by ($each, le) (\n"
            f"  rate(datastorage_query_duration_seconds_bucket{{$own,{_BY_MEANING}}}[10m])\n"
            ")) > 0.1\n"
            "and sum by ($each) (\n"
            f"  increase(datastorage_query_duration_seconds_count{{$own,{_BY_MEANING}}}[10m])\n"
            f") > $events({_FEWEST_SEARCHES})"
        ),
        summary="Search by meaning is slow",
        description="The 95th percentile of searches by meaning is {{ $value | humanizeDuration }}; the "
        "objective is 100 ms.",
        meaning="One search by meaning in twenty takes longer than 100 ms. Answers are complete.",
    ),
)


def alerts() -> Group:
    """Return the alerts about what is wrong now."""
    return Group("datastorage.alerts", (*_STORING, *_CLEARING, *_VECTORS, *_ASKING))
