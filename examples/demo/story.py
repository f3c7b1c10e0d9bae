"""Plays a remediation: applies the manifests of examples/remediation-story one after the other."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from examples.demo.archive import Row
from examples.demo.checks import Seen
from examples.demo.scene import Demo
from examples.demo.stage import EXAMPLES

STORY = EXAMPLES / "remediation-story"
TABLES = {"AuditRecord": "audit_records", "ActionTrace": "action_traces"}
CORRELATION = "rr-checkout-oom-4f7a"
# The time of the story that becomes now: the analysis has begun, and nothing is chosen yet. A trace's
# creation time is the real one, and must fit between the others.
PLAYED_AT = datetime(2026, 3, 14, 9, 26, 56, tzinfo=UTC)
TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def play_story(demo: Demo) -> None:
    """Apply each manifest and wait until what it says is in the archive and in the object's status."""
    demo.narrator.heading("A remediation: alert, analysis, workflow, execution, assessment")
    demo.narrator.say(
        f"kubectl apply of {STORY.name}/*.yaml, as if it were now, with ttlSecondsAfterStored: {demo.ttl}"
    )
    later = datetime.now(UTC).replace(microsecond=0) - PLAYED_AT
    for path in sorted(STORY.glob("*.yaml")):
        manifest = yaml.safe_load(_moved(path.read_text(), later))
        if manifest["kind"] not in TABLES:
            demo.stage.cluster.kubectl("apply", "-f", str(path))
            continue
        manifest["spec"]["ttlSecondsAfterStored"] = demo.ttl
        applied = demo.stage.cluster.kubectl("apply", "-f", "-", "-o", "json", input=yaml.safe_dump(manifest))
        _check_stored(demo, path, yaml.safe_load(applied.stdout))
    _check_history(demo)


def _moved(text: str, later: timedelta) -> str:
    """Return a text with all its times moved."""
    return TIME.sub(lambda found: f"{datetime.fromisoformat(found[0]) + later:%Y-%m-%dT%H:%M:%SZ}", text)


def _check_stored(demo: Demo, path: Path, applied: dict[str, Any]) -> None:
    kind, metadata = applied["kind"], applied["metadata"]
    name, generation = metadata["name"], metadata["generation"]
    final = kind == "AuditRecord" or "assessedAt" in applied["spec"].get("effectiveness", {})
    phase = "Stored" if final else "Recording"

    def look() -> Seen:
        one = demo.observer.find(kind, name)
        if one is None or (generation, phase) not in one.phases:
            phases = [f"{phase} (generation {number})" for number, phase in one.phases] if one else []
            return Seen(right=False, what=f"{kind} is {', then '.join(phases) or 'not stored yet'}")
        row = find_row(demo, kind, name, generation)
        if row is None:
            return Seen(right=False, what="no row in PostgreSQL")
        if row.spec != applied["spec"] or not row.hash_is_right:
            return Seen(right=False, what=f"another content in PostgreSQL: {row.content.decode()}")
        generations = f", generation {generation}" if kind == "ActionTrace" else ""
        return Seen(
            right=True, what=f"{kind} {phase}{generations}, row sha256:{row.content_hash.hex()[:12]}…"
        )

    demo.checks.that(path.name, f"phase {phase} and a row with exactly what was applied", look)


def find_row(demo: Demo, kind: str, name: str, generation: int = 1) -> Row | None:
    """Return the row of one generation of an object, if there is one."""
    rows = demo.stage.archive.rows(TABLES[kind])
    return next((row for row in rows if (row.name, row.generation) == (name, generation)), None)


def _check_history(demo: Demo) -> None:
    expected = ["1 Pending", "2 Executing", "3 Completed", "4 Completed final"]

    def look() -> Seen:
        found = demo.stage.archive.query(
            "SELECT generation || ' ' || execution_status || CASE WHEN final THEN ' final' ELSE '' END"
            " FROM datastorage.action_traces ORDER BY generation"
        )
        seen = [row[0] for row in found]
        return Seen(seen == expected, " → ".join(seen))

    demo.checks.that("Every generation of the trace is a row", " → ".join(expected), look)
