"""The command line against a running operator, with real tokens, and as a plugin of kubectl."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.workbench import Workbench
from harness.controlplane.cluster import kubeconfig, write_private
from harness.polling import until_blocking

PROGRAMS = Path(sys.executable).parent
SECONDS = 120.0


@dataclass(frozen=True)
class Printed:
    """The output of a command."""

    code: int
    out: str
    err: str


class Person:
    """Runs the program with a kubeconfig and no settings of the machine."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self.url = workbench.running_operator().api_url
        self.namespace = workbench.namespace

    def run(
        self, *command: str | Path, user: Path | None = None, text: str | None = None, **variables: str
    ) -> Printed:
        """Run a program; ``user`` is the kubeconfig, by default the administrator's."""
        cluster = self._workbench.cluster
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DATASTORAGE_")
        }
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={
                **environment,
                **cluster.environment,
                "KUBECONFIG": str(user or cluster.admin_kubeconfig),
                "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
                "COLUMNS": "200",
                **variables,
            },
        )
        return Printed(done.returncode, done.stdout, done.stderr)

    def over_http(self, *command: str, account: str = "both", text: str | None = None) -> Printed:
        """Run a command with a token for a ServiceAccount, which the administrator gets for it."""
        return self.run(
            PROGRAMS / "datastorage",
            command[0],
            "--server",
            self.url,
            "--as-serviceaccount",
            f"{self.namespace}/{account}",
            *command[1:],
            text=text,
        )

    def with_database(self, *command: str) -> Printed:
        """Run a command with the database."""
        return self.run(
            PROGRAMS / "datastorage", *command, DATASTORAGE_DATABASE_URL=self._workbench.database_url
        )


@pytest.fixture
def person(workbench: Workbench) -> Person:
    """Provide a running operator, and ServiceAccounts: ``both`` may store and read, ``nobody`` may not."""
    namespace, kubectl = workbench.namespace, workbench.cluster.kubectl
    for account in ("both", "nobody"):
        kubectl("create", "serviceaccount", account, "-n", namespace)
    for role in ("datastorage-writer", "datastorage-archive-reader"):
        binding = ("create", "rolebinding", role, f"--clusterrole={role}", "-n", namespace)
        kubectl(*binding, f"--serviceaccount={namespace}:both")
    return Person(workbench)


def _records(namespace: str) -> str:
    uids = [str(uuid.uuid4()) for _ in range(2)]
    return "---\n".join(
        f"""
metadata: {{namespace: {namespace}, name: step-{number}, uid: {uid}}}
spec:
  type: {type_}
  action: scale-deployment
  phase: Completed
  correlationID: rr-1
  startTime: 2026-03-14T09:26:5{number}Z
  message: scaled checkout
"""
        for number, (uid, type_) in enumerate(zip(uids, ("Remediation", "Execution"), strict=True))
    )


def _assert_one_line(printed: Printed, code: int, *words: str) -> None:
    assert (printed.code, printed.out) == (code, ""), printed
    assert printed.err.startswith("datastorage: ")
    assert printed.err.count("\n") == 1, printed.err
    for word in words:
        assert word in printed.err


def _complete(run: Callable[..., Printed], question: Sequence[str]) -> Printed:
    """Run a command again while the vector of its question comes too late, as on a busy machine."""
    found: list[Printed] = []

    def is_complete() -> bool:
        found[:] = [run(*question)]
        return "searched by words only" not in found[0].err

    until_blocking(is_complete, what=f"a complete answer to {question}")
    return found[0]


@pytest.mark.shared_operator
def test_records_are_stored_and_shown_as_with_the_database(person: Person) -> None:
    namespace, text = person.namespace, _records(person.namespace)
    stored = person.over_http("store", "-f", "-", "-o", "json", text=text)
    assert stored.code == 0, stored
    items = json.loads(stored.out)["items"]
    assert [item["status"] for item in items] == [201, 201]
    assert {item["record"]["recordedBy"] for item in items} == {f"system:serviceaccount:{namespace}:both"}
    again = person.over_http("store", "-f", "-", text=text)
    assert again.code == 0
    assert again.out.count("stored before") == 2
    questions: Sequence[tuple[str, ...]] = (
        ("list", "-n", namespace),
        ("list", "-n", namespace, "-o", "json", "--since", "1h"),
        ("search", "scaled checkout", "-n", namespace, "-o", "json"),
        ("timeline", "rr-1", "-n", namespace),
        ("get", f"{namespace}/step-1"),
        ("get", items[0]["uid"], "-n", namespace, "-o", "json"),
        ("get", items[0]["uid"], "-n", namespace, "--history"),
    )
    # Each is a process that needs a second or two to load, and some time for its answer.
    with ThreadPoolExecutor(4) as pool:
        from_database = pool.map(partial(_complete, person.with_database), questions)
        from_server = pool.map(partial(_complete, person.over_http), questions)
        for expected, found in zip(from_database, from_server, strict=True):
            assert expected.code == 0, expected
            assert "step-" in expected.out
            assert found == expected


@pytest.mark.shared_operator
def test_a_record_that_is_refused_is_named_with_its_place(person: Person) -> None:
    text = _records(person.namespace).replace("phase: Completed", "phase: Done", 1)
    printed = person.over_http("store", "-f", "-", text=text)
    assert printed.code == 1
    assert printed.err == "datastorage: 1 of 2 records are not stored\n"
    _, refused, stored = printed.out.splitlines()
    assert refused.startswith("FAILED")
    assert "standard input, document 1" in refused
    assert "/spec/phase: must be one of" in refused
    assert stored.startswith("stored")
    foreign = person.over_http("store", "-f", "-", text=_records("kube-system"))
    assert foreign.code == 1
    assert "has no right to create auditrecords" in foreign.out


def test_with_atomic_all_records_are_stored_or_none(person: Person) -> None:
    text = _records(person.namespace).replace("type: Remediation", "type: Execution")
    wrong = text.replace("phase: Completed", "phase: Done", 1)
    printed = person.over_http("store", "-f", "-", "--atomic", text=wrong)
    assert (printed.code, printed.err) == (1, "datastorage: 2 of 2 records are not stored\n")
    _, first, second = printed.out.splitlines()
    assert "/spec/phase: must be one of" in first
    assert "not stored, because of others in the batch" in second
    assert "no records found" in person.over_http("list", "-n", person.namespace).err
    for word in ("stored", "stored before"):
        printed = person.over_http("store", "-f", "-", "--atomic", text=text)
        assert printed.code == 0, printed
        assert [line.startswith(f"{word}  ") for line in printed.out.splitlines()[1:]] == [True, True]
    _assert_one_line(
        person.over_http("store", "-f", "-", "--atomic", text=_records(person.namespace)),
        2, "--atomic stores one request as a whole, and these records need 2",
    )  # fmt: skip


async def test_a_name_is_found_within_the_rights_alone(person: Person, workbench: Workbench) -> None:
    assert person.over_http("store", "-f", "-", text=_records(person.namespace)).code == 0
    question = ("get", f"{person.namespace}/step-1")
    assert person.over_http(*question).code == 0
    foreign = person.over_http("get", "kube-system/step-1")
    _assert_one_line(
        foreign, 1, "no right to get records.archive.datastorage.kubernaut.io in namespace kube-system"
    )
    earlier = "UPDATE datastorage.audit_records SET created_at = created_at - interval '1 day'"
    await workbench.execute_as_owner(earlier)
    # It belongs to an earlier namespace of the name, perhaps to somebody else.
    _assert_one_line(person.over_http(*question), 1, f"no record {person.namespace}/step-1 in the archive")
    assert person.with_database(*question).code == 0


@pytest.mark.shared_operator
def test_a_missing_right_is_one_line(person: Person) -> None:
    _assert_one_line(person.over_http("list"), 1, "403 Forbidden: ", "name a namespace")
    printed = person.over_http("list", "-n", person.namespace, account="nobody")
    _assert_one_line(printed, 1, "nobody has no right to list records.archive")
    missing = person.over_http("list", account="missing")
    _assert_one_line(missing, 1, "the API server makes no token", '"missing" not found')


@pytest.mark.shared_operator
def test_a_token_that_is_not_for_the_server_is_not_sent(person: Person, workbench: Workbench) -> None:
    question = (PROGRAMS / "datastorage", "list", "-n", person.namespace, "--server", person.url)
    account = workbench.cluster.service_account_kubeconfig(person.namespace, "both")
    printed = person.run(*question, user=account)
    advice = f"use --as-serviceaccount {person.namespace}/both"
    _assert_one_line(printed, 1, "401 Unauthorized: no credentials", "so it was not sent", advice)
    sent = person.run(*question, "--user-token", user=account)
    _assert_one_line(sent, 1, "401 Unauthorized", "for the audience 'datastorage'")
    unknown = person.run(*question, KUBECONFIG=str(workbench.directory / "absent"))
    _assert_one_line(unknown, 1, "401 Unauthorized: no credentials", "no token was given")


@pytest.mark.shared_operator
def test_the_token_of_the_user_is_sent_if_it_is_for_the_server(
    person: Person, workbench: Workbench, tmp_path: Path
) -> None:
    cluster = workbench.cluster
    made = cluster.kubectl("create", "token", "both", "-n", person.namespace, "--audience", "datastorage")
    token = made.stdout.strip()
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token},
    }
    credential = tmp_path / "credential.json"
    write_private(credential, json.dumps(answer))
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [str(credential)],
        "interactiveMode": "Never",
    }
    question = (PROGRAMS / "datastorage", "list", "-n", person.namespace, "--server", person.url)
    users: dict[str, dict[str, Any]] = {"token": {"token": token}, "exec": {"exec": plugin}}
    for name, credentials in users.items():
        user = tmp_path / name
        write_private(user, kubeconfig(name, {"server": "https://127.0.0.1:1"}, credentials))
        assert person.run(*question, "--kubeconfig", str(user)) == Printed(0, "", "no records found\n")
    write_private(tmp_path / "file", token)
    printed = person.run(*question, "--token-file", str(tmp_path / "file"))
    assert printed == Printed(0, "", "no records found\n")
    printed = person.run(*question, DATASTORAGE_TOKEN=token)
    assert printed == Printed(0, "", "no records found\n")


@pytest.mark.shared_operator
def test_kubectl_runs_and_completes_it(person: Person, workbench: Workbench) -> None:
    kubectl = workbench.cluster.kubectl_path
    helped = person.run(kubectl, "datastorage", "search", "--help")
    assert helped.code == 0
    assert "Usage: kubectl datastorage search" in helped.out
    assert "kubectl datastorage search " in helped.out.partition("Examples")[2]
    printed = person.run(
        kubectl, "datastorage", "list", "-n", person.namespace,
        DATASTORAGE_SERVER=person.url, DATASTORAGE_AS_SERVICEACCOUNT=f"{person.namespace}/both",
    )  # fmt: skip
    assert printed == Printed(0, "", "no records found\n")
    completed = person.run(kubectl, "__complete", "datastorage", "list", "--kind", "Act")
    assert completed.out.splitlines() == ["ActionTrace", ":4"]
