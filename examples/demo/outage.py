"""Redis and the embedder are taken away and brought back while records keep flowing: none is lost."""

import json
import re
import time
from subprocess import CompletedProcess
from typing import Any

from examples.demo.checks import Seen
from examples.demo.commandline import quote, run_all
from examples.demo.flow import CORRELATION, INCIDENTS, Flow
from examples.demo.observer import Followed
from examples.demo.story import Demo

ENOUGH = 3  # records that have to be seen in each part of the outage
REDIS_UP = 'datastorage_dependency_up{dependency="redis"}'
GET_DEGRADED = ("get", "auditrecords", "--all-namespaces", "--field-selector", "status.phase=Degraded")
OUTBOX = ("outbox",)
# Both ask for the same: once in the words of the records, once in others.
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
    demo.checks.that("Nothing is missed but a cache", expected, look)


def _without_embedder(demo: Demo, flow: Flow) -> None:
    demo.services.embedder.kill()
    demo.narrator.say("The embedding service is killed too: nothing can make vectors now")

    def look() -> Seen:
        late = [one.name for one in _late(flow)]
        rows = {row.name for row in demo.stage.archive.rows("audit_records")}
        safe = rows.intersection(late)
        return Seen(len(late) >= ENOUGH and len(safe) == len(late), f"{len(late)} Degraded, {len(safe)} rows")

    demo.checks.that("Records are stored all the same", f"{ENOUGH} Degraded, each with its row", look)
    demo.narrator.say(f"$ kubectl {' '.join(GET_DEGRADED)}")
    demo.narrator.quote(demo.stage.cluster.kubectl(*GET_DEGRADED).stdout)
    outbox, found = run_all(demo, (OUTBOX, BY_WORDS))
    quote(demo, OUTBOX, outbox)
    demo.checks.claim("The outbox knows what is owed", f"{ENOUGH} vectors, and why", _look_at_outbox(outbox))
    quote(demo, BY_WORDS, found)
    first = found.stdout.splitlines()[1:2]
    right = "by words only" in found.stderr and ANSWER.action in "".join(first)
    demo.checks.claim(
        "A search goes on by words, and says so",
        f"a note, and {ANSWER.action} in the first line",
        Seen(right, f"{ANSWER.action} is the best answer" if right else found.stderr + found.stdout),
    )


def _both_back(demo: Demo, flow: Flow) -> None:
    demo.services.redis.start()
    demo.services.embedder.start()
    since, back = _next(flow), time.monotonic()
    demo.narrator.say("Both are started again, on the same ports")

    def look() -> Seen:
        late = _late(flow)
        lifted = [one for one in late if one.stored]
        at_once = [one for one in flow.objects(since) if _phases(one) == ["Stored"]]
        up = demo.stage.operator.metric(REDIS_UP)
        seen = (
            f"{len(lifted)} of {len(late)} Degraded → Stored, {len(at_once)} new ones Stored at once, "
            f"{time.monotonic() - back:.1f} s after both were back"
        )
        return Seen(len(lifted) == len(late) and len(at_once) >= ENOUGH and up == 1, seen)

    expected = f"each Degraded one Stored, {ENOUGH} new ones at once, Redis in use again"
    demo.checks.that("What was owed is paid", expected, look)


def _check_nothing_lost(demo: Demo, flow: Flow) -> None:
    names = flow.names()

    def look() -> Seen:
        strange = [
            f"{one.name} {_phases(one)}"
            for one in flow.objects()
            if _phases(one) not in (["Stored"], ["Degraded", "Stored"])
        ]
        rows = sorted(row.name for row in demo.stage.archive.rows("audit_records") if row.name in names)
        lacking, owed = demo.stage.archive.without_vector(), demo.stage.archive.owed()
        seen = f"{len(names)} created, {len(rows)} rows, {len(lacking)} without a vector, {owed} owed"
        right = rows == sorted(names) and not lacking and not owed and not strange
        return Seen(right, seen + (f"; {strange}" if strange else ""))

    demo.checks.that("Nothing is lost", "a row and a vector for each, no vector owed", look)
    shown = (*BY_MEANING, "--limit", "3")
    everything = (*BY_MEANING, "--correlation", CORRELATION, "--limit", "1000", "-o", "json")
    outbox, best, found = run_all(demo, (OUTBOX, shown, everything))
    quote(demo, OUTBOX, outbox)
    quote(demo, shown, best)
    demo.checks.claim(
        "All of them are found by meaning",
        f"{len(names)} results, {ANSWER.action} the best",
        _look_at_found(json.loads(found.stdout), names),
    )


def _look_at_stored(flow: Flow, since: int, enough: int) -> Seen:
    stored = [one for one in flow.objects(since) if one.stored]
    return Seen(len(stored) >= enough, f"{len(stored)} Stored")


def _look_at_outbox(outbox: CompletedProcess[str]) -> Seen:
    owed = re.search(r"^pending +(\d+)", outbox.stdout, re.MULTILINE)
    reason = " ".join(outbox.stdout.splitlines()[-1].split())
    right = owed is not None and int(owed[1]) >= ENOUGH and "embedding service" in reason
    return Seen(right, reason)


def _look_at_found(found: dict[str, Any], names: list[str]) -> Seen:
    missing = set(names) - {each["name"] for each in found["results"]}
    seen = f"{len(names) - len(missing)} of {len(names)}; the best: {_best(found).get('message')}"
    return Seen(not missing and _best(found).get("action") == ANSWER.action, seen)


def _best(found: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of the best answer, empty if there is none."""
    results = found["results"]
    spec: dict[str, Any] = results[0]["record"]["spec"] if results else {"action": None, "message": None}
    return spec


def _next(flow: Flow) -> int:
    """Return how many records to pass over: those there are, and one that may just be on its way."""
    return len(flow.names()) + 1


def _late(flow: Flow) -> list[Followed]:
    return [one for one in flow.objects() if "Degraded" in _phases(one)]


def _phases(one: Followed) -> list[str]:
    return [phase for _, phase in one.phases]
