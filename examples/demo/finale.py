"""Shows the stored objects in kubectl and PostgreSQL, and at the end that only the archive has them."""

from examples.demo.archive import TABLES
from examples.demo.checks import Seen
from examples.demo.flow import LEAST_TTL
from examples.demo.scene import Demo

GET_ALL = ("get", "auditrecords,actiontraces", "--all-namespaces")
RECORDS_SQL = """
    SELECT namespace, regexp_replace(name, '^(event-.{8}).*', '\\1…'), type, action, phase, resource_name,
           octet_length(content), left(encode(content_hash, 'hex'), 12), to_char(stored_at, 'HH24:MI:SS.MS')
    FROM datastorage.audit_records ORDER BY stored_at, created_at, name
"""
TRACES_SQL = """
    SELECT namespace, name, generation, action_type, execution_status, effectiveness_score, final,
           octet_length(content), left(encode(content_hash, 'hex'), 12), to_char(stored_at, 'HH24:MI:SS.MS')
    FROM datastorage.action_traces ORDER BY name, generation
"""
EVIDENCE_COLUMNS = ("BYTES", "SHA256", "STORED")
RECORDS_COLUMNS = ("NAMESPACE", "NAME", "TYPE", "ACTION", "PHASE", "RESOURCE", *EVIDENCE_COLUMNS)
TRACES_COLUMNS = (
    "NAMESPACE", "NAME", "GENERATION", "ACTION", "EXECUTION", "SCORE", "FINAL", *EVIDENCE_COLUMNS,
)  # fmt: skip


def show_what_is_stored(demo: Demo) -> None:
    """Show the objects and their rows, and check that they are the same."""
    demo.narrator.heading("What the cluster shows")
    demo.narrator.say("$ kubectl get auditrecords,actiontraces -A")
    demo.narrator.quote(demo.stage.cluster.kubectl(*GET_ALL).stdout)
    demo.checks.that(
        "kubectl shows every object as Stored",
        "every object Stored, or cleared already",
        lambda: _compare_listed(demo),
    )
    demo.narrator.heading("What PostgreSQL has")
    for table, sql, columns in (
        ("audit_records", RECORDS_SQL, RECORDS_COLUMNS),
        ("action_traces", TRACES_SQL, TRACES_COLUMNS),
    ):
        demo.narrator.say(f"datastorage.{table}")
        demo.narrator.table(columns, demo.stage.archive.query(sql))
    demo.checks.that(
        "Each object has its rows", "one row an AuditRecord, none rejected", lambda: _compare_rows(demo)
    )
    demo.checks.that(
        "Each row has its vector, and rows that say the same share one",
        "as many vectors as texts, and none pending",
        lambda: _compare_vectors(demo),
    )


def show_what_stays(demo: Demo) -> None:
    """Wait until the cluster is empty again, and check that the archive is not."""
    gone = sum(one.gone for one in demo.observer.objects())
    demo.narrator.heading("Cleared from the cluster, each object when it expires")
    demo.narrator.say(
        f"{gone} have left already, {demo.ttl} s after being stored; those of the outage follow"
    )
    demo.observer.reports_clearing = True
    demo.checks.that(
        "The cluster has none of them any more",
        "No resources found",
        lambda: _look_for_nothing(demo),
        within=max(demo.ttl, LEAST_TTL) + 60.0,
    )
    demo.checks.that(
        "PostgreSQL still has them all", "a row for each that was seen", lambda: _compare_rows(demo)
    )
    demo.checks.that(
        "The SHA-256 of each content is its content_hash, and the hash in the status",
        "sha256(content) = content_hash = status.contentHash for each row",
        lambda: _compare_hashes(demo),
    )


def stop_operator(demo: Demo) -> None:
    """Check that the operator ends well. PostgreSQL ends with it."""
    code = demo.stage.operator.terminate()
    demo.checks.claim("The operator stops on SIGTERM", "exit code 0", Seen(code == 0, f"exit code {code}"))


def _compare_listed(demo: Demo) -> Seen:
    items = demo.stage.cluster.get(*GET_ALL[1:])["items"]
    listed = {(item["kind"], item["metadata"]["name"]): item.get("status", {}).get("phase") for item in items}
    not_stored = [f"{name} {phase}" for (_, name), phase in listed.items() if phase != "Stored"]
    lost = [
        str(one) for one in demo.observer.objects() if not one.gone and (one.kind, one.name) not in listed
    ]
    if not_stored or lost:
        return Seen(right=False, what=f"not Stored: {not_stored}; not there: {lost}")
    gone = len(demo.observer.objects()) - len(listed)
    return Seen(right=True, what=f"{len(listed)} Stored" + (f", {gone} cleared already" if gone else ""))


def _compare_rows(demo: Demo) -> Seen:
    counts = demo.stage.archive.counts()
    records = sorted(row.name for row in demo.stage.archive.rows("audit_records"))
    expected = sorted(one.name for one in demo.observer.objects("AuditRecord"))
    right = records == expected and counts["rejected_objects"] == 0 and counts["action_traces"] == 4
    seen = ", ".join(f"{count} in {table}" for table, count in counts.items())
    return Seen(right, seen if right else f"{seen}, for {len(expected)} AuditRecords and 4 generations")


def _compare_vectors(demo: Demo) -> Seen:
    archive = demo.stage.archive
    rows, texts, vectors = archive.texts()
    lacking, pending = archive.without_vector(), archive.pending()
    seen = f"{rows} rows, {texts} texts, {vectors} vectors, {pending} pending"
    right = texts == vectors and texts < rows and not lacking and not pending
    return Seen(right, seen + (f"; without a vector: {lacking}" if lacking else ""))


def _look_for_nothing(demo: Demo) -> Seen:
    got = demo.stage.cluster.kubectl(*GET_ALL)
    left = [str(one) for one in demo.observer.objects() if not one.gone]
    if got.stdout.strip() or left:
        return Seen(right=False, what=f"{len(left)} of {len(demo.observer.objects())} still there")
    return Seen(right=True, what=got.stderr.strip())


def _compare_hashes(demo: Demo) -> Seen:
    """Compare what each row's bytes hash to with its hash column, and with the hash in the status."""
    said = {
        (one.name, generation): content_hash
        for one in demo.observer.objects()
        for generation, content_hash in one.hashes.items()
    }
    rows = [row for table in TABLES for row in demo.stage.archive.rows(table)]
    wrong = [
        row.name
        for row in rows
        if not row.hash_is_right or said.get((row.name, row.generation)) != f"sha256:{row.content_hash.hex()}"
    ]
    size = sum(len(row.content) for row in rows)
    seen = f"{len(rows) - len(wrong)} of {len(rows)} rows, {size} bytes"
    return Seen(bool(rows) and not wrong, seen + (f"; wrong: {wrong}" if wrong else ""))


def summary(demo: Demo, counts: dict[str, int], seconds: float) -> None:
    """Print what was done in a few lines."""
    objects = demo.observer.objects()
    late = [one for one in objects if "Degraded" in [phase for _, phase in one.phases]]
    latencies = sorted(
        one.stored_after for one in objects if one.stored_after is not None and one not in late
    )
    demo.narrator.heading("Summary")
    demo.narrator.say(
        f"{len(objects)} custom resources created, {sum(one.stored for one in objects)} stored, "
        f"{sum(one.gone for one in objects)} cleared from the cluster"
    )
    demo.narrator.say(
        "Rows, with those of requests and of each generation: "
        + ", ".join(f"{count} {table}" for table, count in counts.items())
    )
    demo.narrator.say(f"{len(late)} were Degraded for a while, and none was lost")
    demo.narrator.say(
        f"Half of the others were stored within {latencies[len(latencies) // 2]:.2f} s, seen from outside"
    )
    demo.narrator.say(f"{demo.checks.passed} checks passed in {seconds:.0f} s")
