"""Metrics of the cluster's side: taking in objects, their status and deletion, and who processes them."""

from typing import Final

from datastorage.metrics.declaring import About, Chapter, Word, by, known_later, words

# One for each shard. A test compares it with the settings, which are too slow to load here.
_MOST_LEASES: Final = 16


class Verdict(Word):
    """How an offered object was received."""

    ACCEPTED = "accepted", "it is to be stored"
    DUPLICATE = "duplicate", "this content is under way, or was settled after the object was read"
    WAITING = "waiting", "PostgreSQL refused it, and it is not due to be tried again"
    SETTLED = "settled", "its own status says that it needs nothing more"
    UNREADABLE = "unreadable", "a fault of this program: the object stays in the cluster, and is logged"
    FULL = "full", "there was no room: a sweep brings it back"


class FallbackOutcome(Word):
    """What came of a request whose record was to become a custom resource."""

    CREATED = "created", "the object is there, and the answer was 202"
    REPEATED = "repeated", "it was there already"
    FAILED = "failed", "the answer was an error"


class StatusOutcome(Word):
    """What came of a status write."""

    SUCCESS = "success", "the status is written, or the object deleted"
    GONE = "gone", "the object is gone"
    CHANGED = "changed", "there is a newer version, which is looked at"
    TOO_LARGE = "too_large", "the object has no room for a status; it is deleted on time all the same"
    REFUSED = "refused", "the API server refuses it; a later sweep tries again"
    RETRIED = "retried", "an attempt that failed and was repeated"
    ABANDONED = "abandoned", "the API server was away for too long; a sweep tries again"


class Completion(Word):
    """Whether something that is done at intervals came to its end."""

    SUCCESS = "success", "it came to its end"
    FAILED = "failed", "it did not, and is repeated"


class GcOutcome(Word):
    """What came of a stored object that came up for deletion."""

    DELETED = "deleted", "it is deleted, also by the status writer at ttl 0"
    GONE = "gone", "somebody else had deleted it"
    CHANGED = "changed", "it has changed, and is looked at again"
    UNCONFIRMED = "unconfirmed", "the archive does not have its row: it is not deleted, and stored again"
    HELD = "held", "a legal hold keeps it"
    REFUSED = "refused", "the API server refuses the deletion, which is repeated"


class MissingPhase(Word):
    """The phases of objects whose rows are looked up."""

    RECORDING = "Recording", "an action that has not ended"
    STORED = "Stored", "stored to the end"
    DEGRADED = "Degraded", "stored without its vector"
    OTHER = "_OTHER", "another phase: the object has changed since"


class Guard(Word):
    """The admission policies that guard the records."""

    CHANGE = "change-guard", "refuses to change an ActionTrace that is being deleted"
    DEFINITION = "definition-guard", "refuses to delete a definition, and all its objects with it"
    DELETION = "deletion-guard", "refuses to delete a record that is not stored, or is under legal hold"
    STATUS = "status-guard", "refuses a status that somebody other than the operator writes"


CLEARING: Final = Chapter("Objects in the cluster")

INTAKE_TOTAL = CLEARING.counters(
    "datastorage_intake_total",
    by(words("verdict", Verdict)),
    About(
        "Objects seen by the watch and the sweep, by how they were received",
        "Mostly `accepted` and `duplicate`. `full` grows while objects come faster than they are stored; "
        "report `unreadable` as a fault.",
        "sum by (verdict) (rate(datastorage_intake_total[5m]))",
    ),
)
FALLBACK_TOTAL = CLEARING.counters(
    "datastorage_api_fallback_total",
    by(words("outcome", FallbackOutcome)),
    About(
        "Requests whose record was to become a custom resource while PostgreSQL was away, by outcome",
        "0 while PostgreSQL serves, and always 0 unless `DATASTORAGE_API_FALLBACK` is `custom-resource`.",
        'increase(datastorage_api_fallback_total{outcome="failed"}[5m]) > 0',
    ),
)
STATUS_DEPTH = CLEARING.gauge(
    "datastorage_status_queue_depth",
    About(
        "Stored records waiting for their status to be written",
        "Near 0, or falling. If it grows, the API server is the limit.",
        "sum(datastorage_status_queue_depth)",
    ),
)
STATUS_TOTAL = CLEARING.counters(
    "datastorage_status_writes_total",
    by(words("outcome", StatusOutcome)),
    About(
        "Status writes, and the deletions that take their place at ttl 0, by outcome",
        "Mostly `success`. `refused` means that a right is missing or a policy refuses the operator: the "
        "records are stored, and their objects stay in the cluster.",
        'sum(increase(datastorage_status_writes_total{outcome="refused"}[10m])) > 0',
    ),
)
SWEEP_TOTAL = CLEARING.counters(
    "datastorage_sweep_total",
    by(words("outcome", Completion)),
    About(
        "Sweeps over the cluster's unstored objects, by outcome",
        "`success` grows every five minutes on the holder of a Lease. `failed` means that the API server "
        "does not list the objects: then nobody knows what waits.",
        'sum(increase(datastorage_sweep_total{outcome="success"}[15m])) == 0',
    ),
)
SWEEP_OBJECTS = CLEARING.counter(
    "datastorage_sweep_objects_total",
    About(
        "Objects that sweeps have looked at",
        "Few: the watch is quicker. It grows after an outage.",
        "sum(increase(datastorage_sweep_objects_total[15m]))",
    ),
)
ROWS_MISSING = CLEARING.counters(
    "datastorage_rows_missing_total",
    by(words("phase", MissingPhase)),
    About(
        "Objects whose status said that they are stored while the archive did not have their rows; they are "
        "stored again",
        "0. It grows after PostgreSQL was restored from a backup, or lost its last commits in a failover.",
        "sum by (phase) (increase(datastorage_rows_missing_total[1h])) > 0",
    ),
)
GC_TOTAL = CLEARING.counters(
    "datastorage_gc_total",
    by(words("outcome", GcOutcome)),
    About(
        "Stored objects that came up for deletion, by outcome",
        "`deleted` follows the records that are stored, an hour later by default. `unconfirmed` is always "
        "worth a look: a row was gone.",
        'sum(increase(datastorage_gc_total{outcome="unconfirmed"}[10m])) > 0',
    ),
)
GC_SCHEDULED = CLEARING.gauge(
    "datastorage_gc_scheduled",
    About(
        "Stored objects that wait for their time to be deleted",
        "About as many as are stored in the time to live. If it grows, deletions are refused or too slow.",
        "sum(datastorage_gc_scheduled)",
    ),
)
WATCH_RESTARTS = CLEARING.counter(
    "datastorage_watch_restarts_total",
    About(
        "Times the watch had to be started again from scratch",
        "It grows when the API server restarts. Many an hour are a network that cuts connections.",
        "sum(increase(datastorage_watch_restarts_total[1h])) > 10",
    ),
)
LEASE_HELD = CLEARING.gauges(
    "datastorage_lease_held",
    by(known_later("lease", "the names of the Leases, one for each shard")),
    About(
        "1 while this process holds the Lease, and so processes the shard's objects; 0 while another one may",
        "1 on one replica for each Lease, and for some seconds on none after a replica has died.",
        "max by (lease) (datastorage_lease_held) == 0",
        appears="At the start, if `DATASTORAGE_LEASE_NAMESPACE` is set: otherwise there are no Leases.",
    ),
    most=_MOST_LEASES,
)
GUARD_IN_FORCE = CLEARING.gauges(
    "datastorage_guard_in_force",
    by(words("guard", Guard)),
    About(
        "1 while an admission policy that guards the records is in force as this release brings it, 0 if it "
        "is missing, differs or can't be looked at",
        "1. During an update it may be 0 for some minutes.",
        "max by (guard) (datastorage_guard_in_force) == 0",
        appears="With the first answer of the API server: until then, nobody knows.",
    ),
)
