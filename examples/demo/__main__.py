"""The command line of the demo."""

import argparse
import json
import sys
import time
from pathlib import Path

import asyncpg

from examples.demo.checks import CheckFailedError, Checks, Seen
from examples.demo.events import play_events
from examples.demo.finale import show_what_is_stored, show_what_stays, stop_operator, summary
from examples.demo.meaning import ask_the_archive, play_equal_events
from examples.demo.monitoring import Monitoring, find_prometheus, monitoring
from examples.demo.narrator import Narrator
from examples.demo.observer import Observer
from examples.demo.outage import play_outage
from examples.demo.requests import tell_by_requests
from examples.demo.scene import Demo
from examples.demo.services import Services, services
from examples.demo.stage import (
    Stage,
    interruptible,
    own_directory,
    show_access,
    stage,
    until_interrupted,
)
from examples.demo.story import play_story
from examples.demo.watched import show_queries, show_what_prometheus_saw
from harness.controlplane import ComponentError, ControlPlaneError

DESCRIPTION = """\
Shows the way of records from the cluster into PostgreSQL: sets up a real
control plane, PostgreSQL, Redis, an embedding service and the operator, lets
controllers create records, asks the archive about them, takes Redis and the
embedding service away, stores and asks over HTTP with curl, and checks at each
step what kubectl, PostgreSQL, the command line, the REST API and Prometheus show."""
EPILOG = """\
Takes one to four minutes; the first time on a machine, Prometheus and the
control plane are built before that, about 11 minutes on 2 cores. Without Go's
modules for Prometheus, its part is left out. The exit code is 0 if every check
passed. Everything is stopped and removed in the end; after a failure the logs
are kept. Several demos can run at the same time."""
WHAT_TO_DO = """\
Run the demo again when the machine has less to do. If the same program fails again, its log says why."""
OPERATOR_USER = "system:serviceaccount:datastorage-system:datastorage"


def main() -> int:
    arguments = _parse()
    narrator = Narrator()
    try:
        with interruptible(), own_directory(arguments.directory) as directory:
            _run(narrator, directory, ttl=arguments.ttl, keep=arguments.keep)
    except CheckFailedError as failure:
        after = f"after {failure.seconds:.0f} s" if failure.seconds >= 1 else "at once"
        lines = [f"expected: {failure.expected}", f"seen:     {failure.seen}", f"given up {after}"]
        narrator.failed(failure.name, [*lines, *failure.__notes__])
        return 1
    except (ControlPlaneError, asyncpg.PostgresError, OSError) as error:
        notes: list[str] = getattr(error, "__notes__", [])
        narrator.failed("The demo cannot go on", [*str(error).splitlines(), *notes])
        if isinstance(error, ComponentError):
            narrator.say(WHAT_TO_DO)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo",
        usage='make demo [ARGS="[--keep] [--ttl SECONDS] [--directory DIR]"]',
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running until Ctrl-C, and say how to use it"
    )
    parser.add_argument(
        "--ttl",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long stored objects stay in the cluster, at least 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="an empty folder for everything (default: a new one for temporary files)",
    )
    arguments = parser.parse_args()
    if arguments.ttl < 1:
        parser.error("--ttl must be 1 or more: with 0 an object is deleted without a status to look at")
    return arguments


def _run(narrator: Narrator, directory: Path, *, ttl: int, keep: bool) -> None:
    narrator.heading("Setting up")
    program = find_prometheus(narrator)
    with (
        services(narrator, directory) as own_services,
        stage(narrator, directory, own_services.settings) as running,
        monitoring(narrator, program, directory, running.operator) as own_monitoring,
    ):

        def programs_run() -> None:
            running.check()
            own_services.check()
            if own_monitoring is not None:
                own_monitoring.check()

        with Observer(running.cluster, narrator.happened) as observer:

            def still_running() -> None:
                programs_run()
                observer.check()

            checks = Checks(narrator, still_running)
            started = time.monotonic()  # without what is built on a new machine
            demo = Demo(narrator, checks, running, own_services, observer, own_monitoring, ttl)
            _check_stage(demo)
            play_story(demo)
            play_equal_events(demo)
            play_events(demo)
            show_what_is_stored(demo)
            observer.reports_clearing = False  # its lines would come between the next ones
            ask_the_archive(demo)
            play_outage(demo)
            show_what_stays(demo)
            tell_by_requests(demo)
            show_what_prometheus_saw(demo)
            counts = running.archive.counts()
            if not keep:
                stop_operator(demo)
            summary(demo, counts, time.monotonic() - started)
        if keep:
            _show_how_to_use(narrator, running, own_services, own_monitoring)
            until_interrupted(programs_run)
            narrator.heading("Stopping, and removing everything")


def _check_stage(demo: Demo) -> None:
    running, checks = demo.stage, demo.checks
    kubectl = running.cluster.kubectl

    def api_server() -> Seen:
        version = json.loads(kubectl("version", "-o", "json").stdout)["serverVersion"]["gitVersion"]
        return Seen(right=True, what=f"Kubernetes {version} at {running.cluster.api_url}")

    def operator() -> Seen:
        return Seen(running.operator.ready(), f"{running.operator.api_url}/ready answers 200")

    def identity() -> Seen:
        def ask(*question: str) -> str:
            answer = kubectl("auth", "can-i", *question, kubeconfig=running.operator.kubeconfig, check=False)
            return answer.stdout.strip()

        who = kubectl(
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
            kubeconfig=running.operator.kubeconfig,
        )
        everything, secrets, records = (
            ask("*", "*"),
            ask("get", "secrets"),
            ask("delete", "auditrecords", "-A"),
        )
        right = (who.stdout, everything, secrets, records) == (OPERATOR_USER, "no", "no", "yes")
        return Seen(right, f"{who.stdout}; may delete auditrecords: {records}, read secrets: {secrets}")

    def guard() -> Seen:
        policies = running.cluster.get("validatingadmissionpolicies")["items"]
        names = [item["metadata"]["name"].split(".")[0] for item in policies if not _warnings(item)]
        return Seen("deletion-guard" in names and "status-guard" in names, ", ".join(names))

    checks.that("The control plane is up", "an API server that answers with its version", api_server)
    checks.that(
        "The admission policies are accepted", "deletion-guard and status-guard without warnings", guard
    )
    checks.that("The operator is ready", "/ready answers 200", operator)
    checks.that(
        "The operator has the shipped rights only", f"{OPERATOR_USER}, no rights but its own", identity
    )


def _warnings(policy: dict[str, dict[str, dict[str, object]]]) -> bool:
    status = policy.get("status", {})
    return "typeChecking" not in status or bool(status["typeChecking"].get("expressionWarnings"))


def _show_how_to_use(
    narrator: Narrator, running: Stage, own_services: Services, own_monitoring: Monitoring | None
) -> None:
    narrator.heading("Everything keeps running until Ctrl-C. In another terminal:")
    show_access(narrator, running, own_services.settings)
    if own_monitoring is not None:
        show_queries(narrator, own_monitoring)


if __name__ == "__main__":
    sys.exit(main())
