"""Tells the story over HTTP: a program stores a record with curl, and asks, with a token of its own."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from examples.demo.checks import CheckFailedError, Seen
from examples.demo.records import NAMESPACE
from examples.demo.scene import Demo
from examples.demo.story import CORRELATION

ACCOUNT = "recorder"
FOREIGN = "kube-system"
RECORD = {
    "metadata": {"namespace": NAMESPACE},
    "spec": {
        "action": "notify-team",
        "phase": "Completed",
        "correlationID": CORRELATION,
        "resourceRef": {
            "apiVersion": "apps/v1", "kind": "Deployment", "namespace": NAMESPACE, "name": "checkout",
        },
        "message": "Told the on-call engineer that checkout has more memory now",
    },
}  # fmt: skip
KEY = "Idempotency-Key: demo/notify-team"
STORE = "/api/v1/store/execution"
SEARCH = f"/api/v1/query/semantic?namespace={NAMESPACE}&q=who+was+informed+about+the+memory%3F"
FORBIDDEN = f"/api/v1/query/records?namespace={FOREIGN}"
TIMELINE = f"/api/v1/timeline/{CORRELATION}?namespace={NAMESPACE}"
HISTORY = (
    f"/api/v1/history?namespace={NAMESPACE}"
    f"&targetKind=Deployment&targetNamespace={NAMESPACE}&targetName=checkout"
)


@dataclass(frozen=True)
class Answer:
    """An answer of the API."""

    status: int
    body: Any

    @property
    def words(self) -> str:
        """The status, and the problem if there is one."""
        detail = self.body.get("detail", "") if isinstance(self.body, dict) else ""
        return f"{self.status} {detail}".strip()


class Curl:
    """Runs curl as the ServiceAccount. Its token stays in a file, so that no list of processes shows it."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo

    def __call__(self, path: str, *options: str, body: Any = None) -> Answer:
        """Send a request, show it, and return the answer."""
        shown = [*options, *(["--json", json.dumps(body)] if body is not None else [])]
        words = " ".join(f"'{word}'" if not word.startswith("--") and " " in word else word for word in shown)
        self._demo.narrator.say(f'$ curl "$API{path}" -H "$AUTH" {words}'.rstrip())
        done = subprocess.run(
            [
                self._program, "--silent", "--show-error", "--max-time", "30",
                "--write-out", "\n%{http_code}", "--header", f"@{self._token_file}",
                *shown, self._demo.stage.operator.api_url + path,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise OSError(f"curl failed: {done.stderr.strip()}")
        text, _, status = done.stdout.rpartition("\n")
        return Answer(int(status), json.loads(text))

    @cached_property
    def _program(self) -> str:
        found = shutil.which("curl")
        if found is None:
            raise CheckFailedError("curl is installed", "curl on the PATH", "none: install it", 0.0)
        return found

    @cached_property
    def _token_file(self) -> str:
        cluster = self._demo.stage.cluster
        cluster.kubectl("create", "serviceaccount", ACCOUNT, "-n", NAMESPACE)
        for name, role in (("writes", "datastorage-writer"), ("reads", "datastorage-archive-reader")):
            cluster.kubectl(
                "create", "rolebinding", f"{ACCOUNT}-{name}", "-n", NAMESPACE,
                f"--clusterrole={role}", f"--serviceaccount={NAMESPACE}:{ACCOUNT}",
            )  # fmt: skip
        token = cluster.kubectl(
            "create", "token", ACCOUNT, "-n", NAMESPACE, "--audience", "datastorage"
        ).stdout.strip()
        path = self._demo.stage.directory / "recorder-header"
        path.touch(mode=0o600)
        path.write_text(f"Authorization: Bearer {token}\n")
        return str(path)


def tell_by_requests(demo: Demo) -> None:
    """Store a record with a request, find it, and be refused where the rights end."""
    demo.narrator.heading("Over HTTP: a program with the token of a ServiceAccount, and no custom resource")
    demo.narrator.say(f"$ kubectl create token {ACCOUNT} -n {NAMESPACE} --audience datastorage")
    curl = Curl(demo)
    first = curl(STORE, "--header", KEY, body=RECORD)
    demo.checks.claim("The record is committed", "201 and its row", _look_at_row(demo, first))
    again = curl(STORE, "--header", KEY, body=RECORD)
    right = (again.status, again.body) == (200, first.body) and _look_at_row(demo, first).right
    demo.checks.claim(
        "The same request again makes no second record",
        "200, the same receipt and one row",
        Seen(right, f"200, the same uid {first.body['uid'][:8]}…" if right else again.words),
    )
    _ask(demo, curl, first.body["uid"])
    refused = curl(FORBIDDEN)
    demo.checks.claim(
        "Another namespace is closed to it",
        "403, which names the right",
        Seen(refused.status == 403 and FOREIGN in refused.words, refused.words),
    )


def _ask(demo: Demo, curl: Curl, uid: str) -> None:
    def found() -> Seen:
        best = curl(SEARCH).body["items"][0]
        return Seen(best["uid"] == uid, f"{best['name']}, similarity {best['similarity']:.2f}")

    demo.checks.that("A search by meaning finds it first", "the record in the first place", found)
    timeline = curl(TIMELINE).body["items"]
    kinds = sorted({each["kind"] for each in timeline})
    seen = Seen(
        uid in [each["uid"] for each in timeline] and kinds == ["ActionTrace", "AuditRecord"],
        f"{len(timeline)} entries of {' and '.join(kinds)}, {timeline[0]['name']} the first",
    )
    demo.checks.claim(
        "The timeline has it among the records of the cluster", "the record, and both kinds", seen
    )
    history = curl(HISTORY).body["items"]
    scores = [each["effectivenessScore"] for each in history if each.get("effectivenessScore") is not None]
    seen = Seen(
        history[0]["uid"] == uid and bool(scores),
        f"{len(history)} entries, effectiveness {', '.join(map(str, scores))}",
    )
    demo.checks.claim(
        "The history of Deployment checkout says what was done to it, and whether it helped",
        "the newest entry is the record, and one has an effectiveness",
        seen,
    )


def _look_at_row(demo: Demo, answer: Answer) -> Seen:
    if answer.status != 201:
        return Seen(right=False, what=answer.words)
    rows = demo.stage.archive.query(
        "SELECT via, recorded_by, 'sha256:' || encode(content_hash, 'hex') FROM datastorage.audit_records"
        " WHERE uid = $1::uuid",
        answer.body["uid"],
    )
    caller = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    right = rows == [("api", caller, answer.body["contentHash"])]
    return Seen(right, f"201, {len(rows)} row, recorded by {caller}" if right else f"rows: {rows}")
