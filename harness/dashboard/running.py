"""Panels about the operator itself: who does the work, what waits, and what it needs."""

from typing import Final

from harness.dashboard.model import Limit, Panel, Query, Row, States, Unit, quantile, rate

# A Prometheus without the discovery of pods has no label pod.
_REPLICA: Final = "pod, instance"
_EACH_REPLICA: Final = "{{pod}} {{instance}}"
_LEASE: Final = 'datastorage_lease_held{$own,lease=~"$lease"}'
_STORED: Final = "datastorage_created_to_stored_seconds"
_HTTP: Final = "http_server_request_duration_seconds"

_WORK: Final = (
    Panel(
        "Leases",
        Unit.STATE,
        "Whether some replica holds the Lease of each shard, and so takes in and deletes the objects of it.",
        "Held, except for some seconds after a replica has died. There are no Leases, and the panel is "
        "empty, where `DATASTORAGE_LEASE_NAMESPACE` is not set.",
        (Query(f"max by (lease) ({_LEASE})", "{{lease}}"),),
        states=States("held", "nobody holds it"),
        alerts=("DataStorageShardWithoutHolder",),
    ),
    Panel(
        "Shards by replica",
        Unit.LEASES,
        "How many Leases each replica holds.",
        "About as many on each. All on one means that the others do not run, or do not reach the API server.",
        (Query(f"sum by ({_REPLICA}) ({_LEASE})", _EACH_REPLICA),),
        alerts=("DataStorageShardWithoutHolder",),
    ),
    Panel(
        "Intake",
        Unit.RECORDS,
        "Records that wait: taken in by a replica, and those that PostgreSQL refuses while it stores others.",
        "Near 0, or falling. A line that stays high means that records come faster than they are stored, or "
        "that PostgreSQL is away.",
        (
            Query(f"sum by ({_REPLICA}) (datastorage_intake_depth{{$own}})", _EACH_REPLICA),
            Query("sum(datastorage_waiting_records{$own})", "refused by PostgreSQL"),
        ),
        alerts=("DataStorageArchivingStalled",),
    ),
    Panel(
        "Objects taken in",
        Unit.RECORDS_A_SECOND,
        "Objects that the watch and the sweeps have seen, by how they were received.",
        "Mostly `accepted` and `duplicate`. `full` means that the intake has no room: a sweep brings these "
        "objects back. Report `unreadable` as a fault.",
        (Query(f"sum by (verdict) ({rate('datastorage_intake_total{$own}')})", "{{verdict}}"),),
    ),
    Panel(
        "Created to stored",
        Unit.SECONDS,
        "How long after its creation a record is stored: 50, 95 and 99 of 100 are quicker.",
        "Below a second, and below 5 for 99 of 100. The objects' times of creation have whole seconds alone.",
        tuple(
            Query(quantile(part, _STORED), name)
            for part, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
        ),
        limits=(Limit(5, "warning"),),
        alerts=("DataStorageStoredLateBudgetBurn",),
    ),
    Panel(
        "Oldest unstored record",
        Unit.SECONDS,
        "Age of the oldest record that a replica has taken in and not stored, by table.",
        "Some seconds at most. A line that climbs is an outage, or a single record that PostgreSQL refuses: "
        "the write rate tells which.",
        (Query("max by (table) (datastorage_unstored_oldest_seconds{$own})", "{{table}}"),),
        limits=(Limit(300, "critical"),),
        alerts=("DataStorageUnstoredRecordTooOld",),
    ),
    Panel(
        "Status queue",
        Unit.RECORDS,
        "Stored records whose objects don't say so yet.",
        "Near 0, or falling. If it grows, the API server is the limit.",
        (Query(f"sum by ({_REPLICA}) (datastorage_status_queue_depth{{$own}})", _EACH_REPLICA),),
        alerts=("DataStorageStatusRefused",),
    ),
    Panel(
        "Status writes",
        Unit.RECORDS_A_SECOND,
        "Status writes to the API server, by what came of them.",
        "Mostly `success`. `refused` means that a right is missing, or that a policy of the cluster refuses "
        "the operator. `abandoned` means that the API server was away.",
        (Query(f"sum by (outcome) ({rate('datastorage_status_writes_total{$own}')})", "{{outcome}}"),),
        alerts=("DataStorageStatusRefused",),
    ),
    Panel(
        "Deletions",
        Unit.RECORDS_A_SECOND,
        "Stored objects that came up for deletion, by what came of them.",
        "`deleted` follows the write rate, later by the time to live. `held` counts legal holds. "
        "`unconfirmed` is always worth a look: the archive did not have the row, and the object stays.",
        (Query(f"sum by (outcome) ({rate('datastorage_gc_total{$own}')})", "{{outcome}}"),),
        alerts=("DataStorageUnconfirmedDeletion",),
    ),
    Panel(
        "Objects that wait for deletion",
        Unit.RECORDS,
        "Stored objects that wait until their time to live is over.",
        "About as many as are stored in that time. If it grows while the write rate does not, deletions are "
        "refused or too slow, and etcd fills.",
        (Query("sum(datastorage_gc_scheduled{$own})", "scheduled"),),
    ),
    Panel(
        "Outbox",
        Unit.RECORDS,
        "Records whose vectors are pending, can't be made (`failed`), or were given up by a person "
        "(`dropped`).",
        "0 pending. It grows while the embedder or the tables of the vectors are away, and falls afterwards.",
        (Query("max by (state) (datastorage_outbox_depth{$own})", "{{state}}"),),
        alerts=("DataStorageOutboxGrowing",),
    ),
    Panel(
        "Oldest pending vector",
        Unit.SECONDS,
        "How long the oldest pending vector has waited.",
        "Some seconds.",
        (Query("max(datastorage_outbox_oldest_seconds{$own})", "oldest"),),
        limits=(Limit(900, "warning"),),
        alerts=("DataStorageOutboxGrowing",),
    ),
)

_NEEDS: Final = (
    Panel(
        "Dependencies",
        Unit.STATE,
        "Whether all replicas can use the servers and tables that the operator needs.",
        "Serving. Only `postgres` stops the archive, and only the table of a kind stops that kind. Without "
        "the others, records are stored, and their vectors follow.",
        (Query("min by (dependency) (datastorage_dependency_up{$own})", "{{dependency}}"),),
        states=States("serving", "away"),
        alerts=("DataStoragePostgreSQLFailure", "DataStorageVectorDBDegraded"),
    ),
    Panel(
        "Errors of dependencies",
        Unit.ERRORS_A_SECOND,
        "Operations that failed because a dependency could not serve. They are repeated, or done later.",
        "0. A few while all dependencies serve are a network that drops connections.",
        (
            Query(
                f"sum by (dependency) ({rate('datastorage_dependency_errors_total{$own}')})", "{{dependency}}"
            ),
        ),
        alerts=("DataStoragePostgreSQLFailure",),
    ),
    Panel(
        "Guards",
        Unit.STATE,
        "Whether the admission policies that protect records are in force as the release brings them.",
        "In force, except for some minutes during an update. Without a guard, what it refuses is possible.",
        (Query("max by (guard) (datastorage_guard_in_force{$own})", "{{guard}}"),),
        states=States("in force", "not in force"),
        alerts=("DataStorageGuardNotInForce",),
    ),
    Panel(
        "Event loop",
        Unit.SECONDS,
        "For how long a piece of work has kept each replica from all others: 99 of 100 delays are shorter.",
        "Below 0.1 seconds. More means that the replica has less than a core, and every answer waits for so "
        "long.",
        (Query(quantile(0.99, "datastorage_event_loop_held_seconds", by=_REPLICA), _EACH_REPLICA),),
        limits=(Limit(0.1, "warning"),),
    ),
    Panel(
        "Requests to the API",
        Unit.REQUESTS_A_SECOND,
        "Requests to the REST API that were answered, by status.",
        "Mostly 2xx. 401 and 403 are clients without a token or a right, 422 records that break a rule, 429 "
        "clients that ask too often, and 5xx something that is away.",
        (
            Query(
                f"sum by (http_response_status_code) ({rate('http_server_requests_total{$own}')}) > 0",
                "{{http_response_status_code}}",
            ),
        ),
        empty="no requests",
    ),
    Panel(
        "Duration of requests",
        Unit.SECONDS,
        "How long an answer of the REST API takes until its last byte, by route: 95 of 100 are quicker. An "
        "export takes as long as its client reads, and is left out.",
        "Some hundredths of a second.",
        (Query(quantile(0.95, _HTTP, of='http_route!="/api/v1/export"', by="http_route"), "{{http_route}}"),),
    ),
    Panel(
        "Memory",
        Unit.BYTES,
        "Memory that each replica uses.",
        "Level after the first hour, and higher while a backlog is stored. If it nears the limit of the "
        "pod, raise that limit: Kubernetes ends a process that exceeds it.",
        (Query(f"sum by ({_REPLICA}) (process_resident_memory_bytes{{$own}})", _EACH_REPLICA),),
    ),
    Panel(
        "CPU",
        Unit.CORES,
        "Cores that each replica uses.",
        "It follows the write rate. One event loop does most of the work of a replica: near 1, it is at its "
        "limit, and the panel Event loop shows it.",
        (Query(f"sum by ({_REPLICA}) ({rate('process_cpu_seconds_total{$own}')})", _EACH_REPLICA),),
    ),
)

OPERATOR: Final = Row("The operator", (*_WORK, *_NEEDS), width=8)
