"""Shows searches by meaning: equal events share a vector, and questions may use other words than records."""

from dataclasses import dataclass
from functools import partial
from subprocess import CompletedProcess
from typing import Any

import yaml
from redis import Redis

from examples.demo.archive import VECTORS
from examples.demo.checks import Seen
from examples.demo.commandline import check_output, look_for, read, show
from examples.demo.records import NAMESPACE, audit_record, create, wait_until_stored
from examples.demo.scene import Demo
from examples.demo.services import HOST
from examples.demo.stage import EXAMPLES
from examples.demo.story import CORRELATION

EQUAL_EVENTS = 5
EQUAL_NAMES = "cart-restart-%"
# Suffixes as ReplicaSets give them. They differ between equal events, and the text that is embedded has none.
PODS = ("x2k9p", "7mqzd", "c4w8t", "vn5rl", "9dhbs")
MISSES = "datastorage_cache_misses_total"
HITS = 'datastorage_cache_hits_total{tier="memory"}'
STEPS = (
    "alert-received", "root-cause-analysis", "trace 1", "run-workflow", "trace 2", "patch-deployment",
    "trace 3", "remediation-completed", "trace 4",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question, and the records of which one must be the best answer."""

    text: str
    answers: tuple[str, ...]


QUESTIONS = (
    Question(
        "what did we do about OOM kills in payments?",
        ("checkout-oom-increase-memory", "checkout-oom-4-execution"),
    ),
    Question("https does not work in the shop", ("storefront-certificate-renewed",)),
    Question("no space left on device", ("orders-volume-expanded",)),
)


def play_equal_events(demo: Demo) -> None:
    """Record an event that comes again and again, and a few others."""
    demo.narrator.heading("The same event several times, for different Pods and in different remediations")
    operator, archive = demo.stage.operator, demo.stage.archive
    misses, hits = operator.metric(MISSES), operator.metric(HITS)
    for number in range(EQUAL_EVENTS):  # one after the other: in one batch they would be one text anyway
        wait_until_stored(demo, create(demo, _restart(number)))

    def look_at_metrics() -> Seen:
        missed, hit = operator.metric(MISSES) - misses, operator.metric(HITS) - hits
        return Seen((missed, hit) == (1, EQUAL_EVENTS - 1), f"cache: {missed:.0f} miss, {hit:.0f} hits")

    def look_at_vectors() -> Seen:
        hashes = archive.query(
            "SELECT DISTINCT text_hash FROM datastorage.audit_records WHERE name LIKE $1", EQUAL_NAMES
        )
        vectors = archive.query(f"SELECT text_hash FROM {VECTORS} WHERE text_hash = ANY($1)", _column(hashes))
        with Redis(HOST, demo.services.redis.port) as redis:
            cached = [key for (text,) in hashes for key in redis.scan_iter(f"*{text.hex()}")]
        seen = f"{len(hashes)} text, {len(vectors)} vector in PostgreSQL, {len(cached)} in Redis"
        return Seen((len(hashes), len(vectors), len(cached)) == (1, 1, 1), seen)

    demo.checks.that(
        "The model was asked once", f"1 miss and {EQUAL_EVENTS - 1} hits in /metrics", look_at_metrics
    )
    demo.checks.that(
        f"{EQUAL_EVENTS} records share one vector", "1 in PostgreSQL, 1 in Redis", look_at_vectors
    )
    demo.narrator.say("A few other incidents, so that a search has a choice")
    others = list(yaml.safe_load_all((EXAMPLES / "other-incidents.yaml").read_text()))
    wait_until_stored(demo, create(demo, *others))


def ask_the_archive(demo: Demo) -> None:
    """Put questions to the archive as an engineer on call would, and read a remediation in order."""
    demo.narrator.heading("Asked in other words than the records have")
    for question in QUESTIONS:
        check_output(
            demo,
            ("search", question.text, "--limit", "3"),
            "The best answer is sensible",
            " or ".join(question.answers),
            partial(_look_at_best, question),
        )
    demo.narrator.heading("A remediation from its beginning to its end")
    show(demo, "timeline", CORRELATION)
    demo.checks.claim(
        "The timeline is complete and in order",
        " → ".join(STEPS),
        _look_at_order(read(demo, "timeline", CORRELATION)),
    )


def _restart(number: int) -> dict[str, Any]:
    pod = f"cart-7d9f8bc4c6-{PODS[number]}"
    return audit_record(
        EQUAL_NAMES.replace("%", str(number + 1)),
        type="Execution",
        action="restart-pod",
        phase="Completed",
        correlationID=f"rr-cart-{number + 1}",
        resourceRef={"apiVersion": "v1", "kind": "Pod", "namespace": NAMESPACE, "name": pod},
        message=f"{pod} was restarted after its liveness probe had failed 3 times",
    )


def _column(rows: list[tuple[Any, ...]]) -> list[Any]:
    return [row[0] for row in rows]


def _look_at_best(question: Question, found: CompletedProcess[str]) -> Seen:
    right, seen = look_for(question.answers, found)
    return Seen(right and not found.stderr, seen)  # stderr would say that the search was not by meaning


def _look_at_order(timeline: dict[str, Any]) -> Seen:
    steps = [_step(entry) for entry in timeline["entries"]]
    times = [entry["at"] for entry in timeline["entries"]]
    right = timeline["complete"] and steps == list(STEPS) and times == sorted(times)
    return Seen(right, " → ".join(steps))


def _step(entry: dict[str, Any]) -> str:
    if entry["kind"] == "ActionTrace":
        return f"trace {entry['generation']}"
    action: str = entry["record"]["spec"]["action"]
    return action
