"""Makes sentences about operations: distinct, and varied enough that their vectors spread realistically."""

import random
from collections.abc import Iterator
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(",") if phrase.strip())


_DOMAINS: Final = _words("""
    checkout payment ledger inventory search notification gateway invoice settlement refund basket
    catalogue pricing shipping returns loyalty coupon identity session profile avatar media thumbnail
    video transcript subtitle playlist recommendation ranking feature fraud risk compliance sanctions
    onboarding document signature archive export import warehouse picking robot telemetry sensor meter
    billing tariff roaming subscriber voucher booking itinerary seat boarding baggage weather forecast map
    routing geocode fleet driver dispatch courier locker appointment patient prescription laboratory
    imaging claim policy premium actuarial pension payroll timesheet recruiting learning exam grading
    library citation genome protein simulation render texture shader matchmaking leaderboard chat presence
    mailbox calendar contact spam translation speech keyboard dictionary glossary
    """)
_ROLES: Final = _words("""
    api worker consumer producer scheduler cron frontend backend proxy cache indexer importer exporter
    aggregator controller operator webhook adapter bridge replica primary shard collector dispatcher
    resolver validator
    """)
_STAGES: Final = _words(
    "prod production staging canary preview sandbox qa load-test disaster-recovery edge internal"
)
_SUBJECTS: Final = _phrases("""
    the container, every replica, the init container, a sidecar, the persistent volume, the claim, the
    node, the kubelet, the ingress controller, the load balancer, the certificate, the TLS secret, the
    config map, the service account, the database connection pool, the primary database, a read replica,
    the message broker, a consumer group, the dead letter queue, the cache, the DNS resolver, the network
    policy, the service mesh proxy, the API server, etcd, the autoscaler, the scheduler, the image
    registry, the container image, the admission webhook, the cron job, the batch job, the backup, the log
    shipper, the metrics agent, the tracing collector, the feature flag, the rate limiter, the object
    store, the file system, the page cache, the garbage collector of the runtime, the thread pool, the
    lock manager, the replication slot, the search index, the session store, the licence server, the GPU
    driver, the clock of the host
    """)
_TROUBLES: Final = _phrases("""
    exceeded its memory limit and was killed, failed its readiness probe, failed its liveness probe and
    was restarted, could not be scheduled for lack of CPU, was evicted under disk pressure, ran out of
    inodes, ran out of file descriptors, timed out while connecting, refused connections, answered with
    status 503, answered with status 429, returned malformed JSON, expired during the night, was not
    trusted by the client, could not be resolved, lost its leader twice, fell behind by forty minutes, was
    stuck in a crash loop, could not be pulled, was throttled by the kernel, deadlocked under concurrent
    updates, leaked goroutines, leaked connections, filled its write-ahead log, rejected writes because it
    was read-only, rejected a schema change, dropped packets between zones, was unreachable after the
    firewall change, was misconfigured by the last release, was rolled back automatically, drifted by
    eleven seconds, hit the quota of the namespace, had no healthy endpoints, flapped between ready and
    unready, stopped reporting, used all ephemeral ports, blocked on slow storage, waited for a lock that
    nobody released, was denied by the policy, could not mount its volume, was terminated during a node
    drain, consumed the error budget, saturated the network card, was slowed by noisy neighbours,
    duplicated messages after a rebalance, served stale content, logged the same stack trace endlessly,
    could not decrypt its secrets, lost quorum, corrupted a checkpoint
    """)
_EFFECTS: Final = _phrases("""
    customers could not pay, orders were delayed, searches returned nothing, logins failed in Europe,
    latency at the 99th percentile tripled, error rates climbed, the queue kept growing, reports were
    incomplete, mobile clients retried in a storm, dashboards went blank, pages loaded without images,
    emails were sent twice, nightly exports missed their deadline, invoices had wrong totals, a region was
    taken out of rotation, deployments were frozen, alerts fired for every team, traces were lost, batch
    jobs piled up, partners complained about missing callbacks, stock levels were wrong, uploads were cut
    off, voice calls dropped, maps did not load, seats were sold twice, predictions used old features,
    replicas kept restarting, the cluster could not scale, half of the traffic was rejected, nobody
    noticed at first
    """)
_VERBS: Final = _phrases("""
    restarted, scaled out, scaled in, rolled back, patched, drained, cordoned, replaced, resized,
    recreated, rotated, reloaded, throttled, paused, resumed, rerouted, failed over, promoted, rebuilt,
    compacted, vacuumed, flushed, warmed up, disabled, enabled, tuned, pinned, upgraded, downgraded,
    quarantined, reindexed, restored from backup, moved to another zone, split, merged, prewarmed, deleted
    and recreated, renewed, revoked, isolated
    """)
_REASONS: Final = _phrases("""
    after a memory leak was found in the heap dump, because the runbook says so, on advice of the analysis
    model, to get below the error budget, until the vendor ships a fix, following the canary analysis,
    with approval of the owner, because utilisation stayed above ninety percent, as the probe threshold
    was too strict, after comparing flame graphs, since the last deployment doubled the allocations,
    because two nodes share a failing switch, to stop the retry storm, after the certificate authority
    changed, because the index no longer fits in memory, while the incident was open, before the sale
    begins, as agreed in the post-mortem, because the quota was raised, after the kernel was updated,
    because a dependency changed its contract, to release stuck locks, as replication could not catch up,
    because the limits were copied from another service, after chaos testing showed the weakness
    """)
_EXTRAS: Final = _words("""
    postgres kafka redis rabbitmq cassandra elasticsearch nginx envoy istio cilium calico coredns
    prometheus grafana loki tempo jaeger vault consul argo flux helm terraform crossplane kyverno keda
    karpenter spot arm64 windows nvidia infiniband nfs ceph minio s3 gcs azure bigquery spark flink
    airflow dbt snowflake clickhouse mysql oracle mongodb etcd zookeeper grpc graphql websocket mqtt http3
    ipv6 bgp vpn saml oauth ldap kerberos java python golang rust node dotnet php ruby erlang hugepages
    numa cgroup seccomp selinux ebpf iptables conntrack swap zram ext4 xfs btrfs lvm
    """)
_TEMPLATES: Final = (
    "{subject} of {service} in {namespace} {trouble}; {effect}. {verb} with {extra}, {number} pods, {reason}",
    "{verb} {service} in {namespace} {reason}: {subject} {trouble}, {extra} showed {number} errors",
    "remediation for {service}: {effect} when {subject} {trouble}. {verb} {number} pods of {extra}",
    "root cause in {namespace}: {subject} {trouble} {reason}, and {effect}; {extra} at {number} percent",
    "workflow step {number}: {service} {verb}, {extra} checked, {reason}",
    "execution failed in {namespace}: not {verb}, {subject} {trouble}; {extra} gave up after {number} s",
    "alert {extra} for {service}: {effect}, {subject} {trouble} for {number} minutes",
    "{effect} in {namespace} because {subject} of {service} {trouble} and {other} {trouble2}",
)
_QUESTIONS: Final = (
    "what did we do when {subject} of {service} {trouble}",
    "why was {service} {verb} {reason}",
    "{effect} in {namespace}, {extra}",
    "incidents where {subject} {trouble} and {effect}",
)


def sentences(count: int, *, seed: int) -> Iterator[str]:
    """Yield that many distinct sentences."""
    return _distinct(count, _TEMPLATES, random.Random(seed))


def questions(count: int, *, seed: int) -> Iterator[str]:
    """Yield searches: half of them full sentences, half of them questions in fewer words."""
    chance = random.Random(seed)
    yield from _distinct(count // 2, _QUESTIONS, chance)
    yield from _distinct(count - count // 2, _TEMPLATES, chance)


def _distinct(count: int, templates: tuple[str, ...], chance: random.Random) -> Iterator[str]:
    seen: set[int] = set()
    while len(seen) < count:
        text = _sentence(chance.choice(templates), chance)
        digest = hash(text)
        if digest not in seen:
            seen.add(digest)
            yield text


def _sentence(template: str, chance: random.Random) -> str:
    pick = chance.choice
    return template.format(
        subject=pick(_SUBJECTS),
        other=pick(_SUBJECTS),
        trouble=pick(_TROUBLES),
        trouble2=pick(_TROUBLES),
        effect=pick(_EFFECTS),
        verb=pick(_VERBS),
        reason=pick(_REASONS),
        extra=pick(_EXTRAS),
        service=f"{pick(_DOMAINS)}-{pick(_DOMAINS)}-{pick(_ROLES)}",
        namespace=f"{pick(_DOMAINS)}-{pick(_STAGES)}",
        number=chance.randint(2, 9999),
    )
