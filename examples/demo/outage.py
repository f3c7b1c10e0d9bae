"""Redis and the embedder are taken away and brought back while records keep flowing: none is lost."""

import re
import time
from subprocess import CompletedProcess

from examples.demo.checks import Seen
from examples.demo.commandline import check_output, look_for, read
from examples.demo.flow import CORRELATION, INCIDENTS, Flow
from examples.demo.observer import Followed
from examples.demo.scene import Demo
from examples.demo.watched import check_alert_ends, check_alert_fires

ENOUGH = 3  # records that have to be seen in each stage of the outage
REDIS_UP = 'datastorage_dependency_up{dependency="redis"}'
GET_DEGRADED = ("get", "auditrecords", "--all-namespaces", "--field-selector", "status.phase=Degraded")
OUTBOX = ("outbox",)
# Both ask for the same record: once in its words, once in others.
BY_WORDS = ("search", "password expired", "--limit", "2")
BY_MEANING = ("search", "login to the database failed", "--mode", "vector")
ANSWER = INCIDENTS[0]


def play_outage(demo: Demo) -> None:
    """Take both away, one after the other, look at what happens, and bring them back."""
    demo.narrator.heading("Redis and the embedding service are taken away while records keep flowing")
    with Flow(demo) as flow:
        demo.checks.wait("Records flow", "2 records Stored", lambda: _look_at_stored(flow, 0, 2))
        _without_redis(demo, flow)
        _without_embedder(demo, flow)
        _both_back(demo, flow)
    _check_nothing_lost(demo, flow)
    check_alert_ends(demo)


def _without_redis(demo: Demo, flow: Flow) -> None:
    demo.services.redis.kill()
    since = _next(flow)
    demo.narrator.say("Redis is killed (SIGKILL)")

    def look() -> Seen:
        right, seen = _look_at_stored(flow, since, ENOUGH)
        up = demo.stage.operator.metric(REDIS_UP)
        late = _late(flow)
        return Seen(
            right and up == 0 and not late, f"{seen}, {len(late)} Degraded; dependency_up is {up:.0f}"
        )

    expected = f"{ENOUGH} records Stored, none Degraded, while Redis is known to be away"
    demo.checks.that("Only a cache is missing", expected, look)


def _without_embedder(demo: Demo, flow: Flow) -> None:
    demo.services.embedder.kill()
    demo.narrator.say("The embedding service is killed, too: nothing can make vectors now")

    def look() -> Seen:
        late = [one.name for one in _late(flow)]
        rows = {row.name for row in demo.stage.archive.rows("audit_records")}
        safe = rows.intersection(late)
        return Seen(len(late) >= ENOUGH and len(safe) == len(late), f"{len(late)} Degraded, {len(safe)} rows")

    demo.checks.that("Records are still stored", f"{ENOUGH} Degraded, each with its row", look)
    demo.narrator.say(f"$ kubectl {' '.join(GET_DEGRADED)}")
    demo.narrator.quote(demo.stage.cluster.kubectl(*GET_DEGRADED).stdout)
    check_output(
        demo, OUTBOX, "The outbox has the pending vectors", f"{ENOUGH} vectors, and why", _look_at_outbox
    )
    check_output(
        demo,
        BY_WORDS,
        "A search uses words alone, and says so",
        f"a note, and {ANSWER.action} in the first line",
        _look_at_best_by_words,
    )
    check_alert_fires(demo)


def _both_back(demo: Demo, flow: Flow) -> None:
    demo.services.redis.start()
    demo.services.embedder.start()
    since, back = _next(flow), time.monotonic()
    demo.narrator.say("Both are started again, on the same ports")

    def look() -> Seen:
        late = _late(flow)
        promoted = [one for one in late if one.stored]
        at_once = [one for one in flow.objects(since) if _phases(one) == ["Stored"]]
        up = demo.stage.operator.metric(REDIS_UP)
        seen = (
            f"{len(promoted)} of {len(late)} Degraded → Stored, {len(at_once)} new ones Stored at once, "
            f"{time.monotonic() - back:.1f} s after both were back"
        )
        return Seen(len(promoted) == len(late) and len(at_once) >= ENOUGH and up == 1, seen)

    expected = f"each Degraded one Stored, {ENOUGH} new ones at once, Redis in use again"
    demo.checks.that("Missing vectors are added later", expected, look)


def _check_nothing_lost(demo: Demo, flow: Flow) -> None:
    names = flow.names()

    def look() -> Seen:
        strange = [
            f"{one.name} {_phases(one)}"
            for one in flow.objects()
            if _phases(one) not in (["Stored"], ["Degraded", "Stored"])
        ]
        rows = sorted(row.name for row in demo.stage.archive.rows("audit_records") if row.name in names)
        lacking, pending = demo.stage.archive.without_vector(), demo.stage.archive.pending()
        seen = f"{len(names)} created, {len(rows)} rows, {len(lacking)} without a vector, {pending} pending"
        right = rows == sorted(names) and not lacking and not pending and not strange
        return Seen(right, seen + (f"; {strange}" if strange else ""))

    demo.checks.that("Nothing is lost", "a row and a vector for each, no vector pending", look)
    check_output(
        demo,
        OUTBOX,
        "The outbox is empty",
        "0 pending, 0 failed, 0 dropped",
        _look_at_empty_outbox,
    )
    check_output(
        demo,
        (*BY_MEANING, "--limit", "3"),
        "What was recorded meanwhile is found by meaning",
        f"{ANSWER.action} in the first line",
        _look_at_best,
    )
    everything = read(demo, *BY_MEANING, "--correlation", CORRELATION, "--limit", "1000")["results"]
    missing = set(names) - {each["name"] for each in everything}
    seen = Seen(not missing, f"{len(everything)} results" + (f", missing: {missing}" if missing else ""))
    demo.checks.claim("Every one of them is found", f"{len(names)} results", seen)


def _look_at_stored(flow: Flow, since: int, enough: int) -> Seen:
    stored = [one for one in flow.objects(since) if one.stored]
    return Seen(len(stored) >= enough, f"{len(stored)} Stored")


def _look_at_outbox(outbox: CompletedProcess[str]) -> Seen:
    pending = re.search(r"^pending +(\d+)", outbox.stdout, re.MULTILINE)
    reason = " ".join(outbox.stdout.splitlines()[-1].split())
    right = pending is not None and int(pending[1]) >= ENOUGH and "embedding service" in reason
    return Seen(right, reason)


def _look_at_empty_outbox(outbox: CompletedProcess[str]) -> Seen:
    counts = re.findall(r"^\w+ +(\d+)", outbox.stdout, re.MULTILINE)
    return Seen(counts == ["0", "0", "0"], f"{', '.join(counts)} vectors")


def _look_at_best(found: CompletedProcess[str]) -> Seen:
    return look_for((ANSWER.action,), found)


def _look_at_best_by_words(found: CompletedProcess[str]) -> Seen:
    right, seen = _look_at_best(found)
    return Seen(right and "by words only" in found.stderr, seen)


def _next(flow: Flow) -> int:
    """Return how many records to skip: those that exist, and one that may just be on its way."""
    return len(flow.names()) + 1


def _late(flow: Flow) -> list[Followed]:
    return [one for one in flow.objects() if "Degraded" in _phases(one)]


def _phases(one: Followed) -> list[str]:
    return [phase for _, phase in one.phases]
