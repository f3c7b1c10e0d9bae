"""Redis and the embedder are taken away and brought back while records keep flowing: none is lost."""

import time
from typing import Any

from examples.demo.checks import Seen
from examples.demo.commandline import show, show_all
from examples.demo.flow import CORRELATION, INCIDENTS, Flow
from examples.demo.observer import Followed
from examples.demo.story import Demo

ENOUGH = 4  # records that have to be seen in each part of the outage
REDIS_UP = 'datastorage_dependency_up{dependency="redis"}'
DEGRADED = ("get", "auditrecords", "--all-namespaces", "--field-selector", "status.phase=Degraded")
QUESTION = "which services could not log in to their database?"
ANSWER = INCIDENTS[0].action


def play_outage(demo: Demo) -> None:
    """Take both away, one after the other, look at what happens, and bring them back."""
    demo.narrator.heading("Redis and the embedding service are taken away while records keep flowing")
    with Flow(demo) as flow:
        _without_redis(demo, flow)
        _without_embedder(demo, flow)
        _both_back(demo, flow)
    _check_nothing_lost(demo, flow)


def _without_redis(demo: Demo, flow: Flow) -> None:
    demo.services.redis.kill()
    before = len(flow.names()) + 1  # the one that is just being created may have been in time
    demo.narrator.say("Redis is killed (SIGKILL)")

    def look() -> Seen:
        up = demo.stage.operator.metric(REDIS_UP)
        degraded = [str(one) for one in flow.objects() if "Degraded" in _phases(one)]
        stored = [one for one in flow.objects(before) if one.stored]
        right = up == 0 and not degraded and len(stored) >= ENOUGH
        return Seen(
            right, f"{len(stored)} Stored since, {len(degraded)} Degraded, dependency_up of redis {up:.0f}"
        )

    demo.checks.that(
        "Nothing is missed but a cache", f"{ENOUGH} records Stored with vectors, none Degraded", look
    )


def _without_embedder(demo: Demo, flow: Flow) -> None:
    demo.services.embedder.kill()
    demo.narrator.say("The embedding service is killed too: nobody can make vectors")

    def look() -> Seen:
        degraded = [one for one in flow.objects() if "Degraded" in _phases(one)]
        rows = {row.name for row in demo.stage.archive.rows("audit_records")}
        safe = [one for one in degraded if one.name in rows]
        right = len(degraded) >= ENOUGH and len(safe) == len(degraded)
        return Seen(right, f"{len(degraded)} Degraded, {len(safe)} of them have their rows")

    demo.checks.that("Records are stored all the same", f"{ENOUGH} Degraded, each with its row", look)
    demo.narrator.say(f"$ kubectl {' '.join(DEGRADED)}")
    demo.narrator.quote(demo.stage.cluster.kubectl(*DEGRADED).stdout)
    commands = [("outbox",), ("search", QUESTION, "--limit", "1")]
    outbox, found = show_all(demo, commands)
    pending = outbox["pending"]
    reasons = [each["error"] for each in pending["lastErrors"] if each["error"]]
    right = pending["vectors"] >= ENOUGH and bool(reasons)
    seen = f"{pending['vectors']} vectors owed: {'; '.join(reasons)}"
    demo.checks.claim("The outbox knows what is owed, and why", "vectors and a reason", Seen(right, seen))
    demo.checks.claim(
        "A search goes on by words, and says so",
        "results, and why they are not by meaning",
        Seen(
            found["mode"] == "text" and bool(found["results"]), f"mode {found['mode']}, {found['degraded']}"
        ),
    )


def _both_back(demo: Demo, flow: Flow) -> None:
    demo.services.redis.start()
    demo.services.embedder.start()
    before, back = len(flow.names()) + 1, time.monotonic()
    demo.narrator.say("Both are started again, on the same ports")

    def look() -> Seen:
        objects, created = flow.objects(), flow.names()
        late = [one for one in objects if "Degraded" in _phases(one)]
        waiting = len(created) - sum(one.stored for one in objects)
        lifted = sum(one.stored for one in late)
        new, up = sum(one.stored for one in flow.objects(before)), demo.stage.operator.metric(REDIS_UP)
        seconds = time.monotonic() - back
        seen = f"{lifted} of {len(late)} Degraded → Stored, after {seconds:.1f} s; {new} new ones Stored"
        return Seen(lifted == len(late) and new >= ENOUGH and up == 1 and waiting <= 1, seen)

    demo.checks.that(
        "What was owed is paid, and what comes has its vector at once",
        f"each Degraded record Stored, {ENOUGH} new ones too, Redis in use again",
        look,
    )


def _check_nothing_lost(demo: Demo, flow: Flow) -> None:
    names = flow.names()

    def look() -> Seen:
        unusual = [
            f"{one.name} {_phases(one)}"
            for one in flow.objects()
            if _phases(one) not in (["Stored"], ["Degraded", "Stored"])
        ]
        rows = sorted(row.name for row in demo.stage.archive.rows("audit_records") if row.name in names)
        lacking, owed = demo.stage.archive.without_vector(), demo.stage.archive.owed()
        right = rows == sorted(names) and not lacking and not owed and not unusual
        seen = f"{len(names)} created, {len(rows)} rows, {len(lacking)} without vector, {owed} owed"
        return Seen(right, seen + (f"; {unusual}" if unusual else ""))

    demo.checks.that("Nothing is lost", "a row and a vector for each, no vector owed", look)
    commands = [("search", QUESTION, "--mode", "vector", "--limit", "1000", "--correlation", CORRELATION)]
    demo.narrator.say("")
    found = show(demo, *commands[0])
    demo.checks.claim("All of them are found by meaning", "…", _found(found, names))


def _found(found: dict[str, Any], names: list[str]) -> Seen:
    best = found["results"][0]["record"]["spec"]
    missing = set(names) - {each["name"] for each in found["results"]}
    right = not missing and best["action"] == ANSWER
    return Seen(right, f"{len(names) - len(missing)} of {len(names)}, the best: {best['message']}")


def _phases(one: Followed) -> list[str]:
    return [phase for _, phase in one.phases]
