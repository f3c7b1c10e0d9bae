"""The operator reaches a real API server in each way that a kubeconfig can name, or reports the reason."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from datastorage.resources.kinds import ACTION_TRACE, AUDIT_RECORD
from e2e.workbench import Workbench
from harness import REPOSITORY
from harness.bulk import BulkClient
from harness.connectproxy import ConnectProxy
from harness.controlplane.cluster import write_private
from harness.manifests import action_trace, audit_record
from harness.operatorprocess import OperatorProcess
from harness.plugin import FakePlugin
from harness.polling import until

SYSTEM = "datastorage-system"


@pytest.mark.usefixtures("own_control_plane")  # it is on this machine, as all hosts are for the proxy
async def test_through_a_proxy_and_under_another_name(
    workbench: Workbench, client: BulkClient, tmp_path: Path
) -> None:
    """Nothing but the proxy knows the host, and the server's certificate does not name it."""
    content: dict[str, Any] = json.loads(workbench.kubeconfig.read_text())
    cluster = content["clusters"][0]["cluster"]
    port = urlsplit(cluster["server"]).port
    cluster["server"] = f"https://api.example.invalid:{port}"
    cluster["tls-server-name"] = "kubernetes.default"
    async with ConnectProxy() as proxy:
        cluster["proxy-url"] = proxy.url
        operator = await started(workbench, tmp_path, content)
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("behind-a-proxy"))
        await stored(client, workbench, "behind-a-proxy")
        assert set(proxy.tunnels) == {f"api.example.invalid:{port}"}
        assert operator.metric("datastorage_watch_restarts_total") == 0
        await asyncio.to_thread(operator.close)


@pytest.mark.parametrize("way", ["exec", "tokenFile"])
async def test_revoked_credentials_are_replaced(
    workbench: Workbench, client: BulkClient, tmp_path: Path, way: str
) -> None:
    first, revoke = bound_token(workbench, "first")
    give, user = (exec_user if way == "exec" else token_file_user)(tmp_path)
    give(first)
    content: dict[str, Any] = json.loads(workbench.kubeconfig.read_text())
    old = write_config(tmp_path / "old", content, {"token": first})
    operator = await started(workbench, tmp_path, content | {"users": [{"name": "x", "user": user}]}, "x")
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("before"))
    await stored(client, workbench, "before")

    revoke()
    await until(lambda: refused(workbench, old), what="the first token is refused")
    # The watches are open, and go on; only a new request meets the refusal.
    await client.create(AUDIT_RECORD, workbench.namespace, audit_record("meanwhile"))
    said = await until(lambda: trouble(operator, "access"), what="/ready says so")
    assert said.startswith("API server (401): it does not accept the credentials")
    assert operator.exit_code is None

    second, _ = bound_token(workbench, "second")
    give(second)
    await stored(client, workbench, "meanwhile")
    await until(lambda: is_ready(operator), what="ready again")
    assert first not in operator.log()


async def test_a_process_that_the_status_guard_refuses_says_so_once(
    workbench: Workbench, client: BulkClient
) -> None:
    admin = workbench.cluster.admin_kubeconfig
    operator = await asyncio.to_thread(workbench.start_operator, kubeconfig=admin)
    for kind, make in ((AUDIT_RECORD, audit_record), (ACTION_TRACE, action_trace)):
        await client.create(kind, workbench.namespace, make("refused"))

    def lines(message: str) -> list[dict[str, Any]]:
        parsed = [json.loads(line) for line in operator.log().splitlines()]
        return [line for line in parsed if line["message"].startswith(message)]

    async def both_refused() -> bool:
        return len(lines("Status refused")) >= 2

    # The writes are repeated for about 15 s before they are given up.
    await until(both_refused, what="both statuses are refused")
    [notice] = lines("The status guard")
    assert "kubectl label namespace" in notice["message"]
    user = json.loads(workbench.cluster.kubectl("auth", "whoami", "-o", "json").stdout)
    assert f"this request is from {user['status']['userInfo']['username']}, " in notice["error"]


async def test_a_right_that_is_revoked_is_named(workbench: Workbench, client: BulkClient) -> None:
    operator = await asyncio.to_thread(workbench.start_operator, SWEEP_INTERVAL_SECONDS=5)
    workbench.cluster.kubectl("delete", "clusterrolebinding", "datastorage")
    try:
        said = await until(lambda: trouble(operator, "access"), what="/ready says so")
        assert said.startswith("API server (403): no right to list ")
        assert "cannot list resource" in said
        # A watch that is open stays open, even without the right to open another one.
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record("meanwhile"))
        patch = f"no right to patch auditrecords/status in namespace {workbench.namespace}"
        await until(lambda: names(operator, patch), what="/ready names the write")
        assert operator.exit_code is None
    finally:
        workbench.cluster.apply(REPOSITORY / "manifests" / "base")
    await until(lambda: is_ready(operator), what="ready again")
    await stored(client, workbench, "meanwhile")


async def started(
    workbench: Workbench, folder: Path, content: dict[str, Any], user: str | None = None
) -> OperatorProcess:
    if user is not None:
        content["contexts"][0]["context"]["user"] = user
    path = folder / "own-kubeconfig"
    write_private(path, json.dumps(content))
    return await asyncio.to_thread(workbench.start_operator, kubeconfig=path)


def write_config(path: Path, content: dict[str, Any], user: dict[str, Any]) -> Path:
    name = content["users"][0]["name"]
    write_private(path, json.dumps(content | {"users": [{"name": name, "user": user}]}))
    return path


def exec_user(folder: Path) -> tuple[Callable[[str], None], dict[str, Any]]:
    """Return the function that sets the token, and a user whose plugin prints it with a short lifetime."""
    plugin = FakePlugin(folder / "plugin")

    def give(token: str) -> None:
        plugin.does(
            "import datetime\n"
            "until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=12)\n"
            f"status = {{'token': {token!r}, 'expirationTimestamp': until.isoformat()}}\n"
            "answer = {'apiVersion': info['apiVersion'], 'kind': 'ExecCredential', 'status': status}\n"
            "print(json.dumps(answer))"
        )

    return give, plugin.user()


def token_file_user(folder: Path) -> tuple[Callable[[str], None], dict[str, Any]]:
    """Return the function that sets the token, and a user whose token is in a file."""
    path = folder / "token"

    def give(token: str) -> None:
        fresh = folder / "token.new"
        write_private(fresh, token)
        fresh.rename(path)

    return give, {"tokenFile": str(path)}


def bound_token(workbench: Workbench, name: str) -> tuple[str, Callable[[], object]]:
    """Return a token of the operator's ServiceAccount, and the function that revokes it."""
    kubectl, secret = workbench.cluster.kubectl, f"{workbench.namespace}-{name}"
    kubectl("create", "secret", "generic", secret, "-n", SYSTEM)
    command = ["create", "token", "datastorage", "-n", SYSTEM]
    token = kubectl(*command, "--bound-object-kind=Secret", f"--bound-object-name={secret}").stdout.strip()
    return token, lambda: kubectl("delete", "secret", secret, "-n", SYSTEM)


async def refused(workbench: Workbench, kubeconfig: Path) -> bool:
    command = ("get", "auditrecords", "-n", workbench.namespace)
    done = await asyncio.to_thread(
        lambda: workbench.cluster.kubectl(*command, kubeconfig=kubeconfig, check=False)
    )
    return "Unauthorized" in done.stderr or "logged in" in done.stderr


async def trouble(operator: OperatorProcess, check: str) -> str | None:
    """Return what /ready says of a check; None if the check succeeds."""
    status, body = await asyncio.to_thread(operator.ask, "/ready")
    said: str = json.loads(body)["checks"].get(check, "ok") if status == 503 else "ok"
    return None if said == "ok" else said


async def names(operator: OperatorProcess, right: str) -> bool:
    return right in (await trouble(operator, "access") or "")


async def is_ready(operator: OperatorProcess) -> bool:
    return await asyncio.to_thread(operator.ready)


async def stored(client: BulkClient, workbench: Workbench, name: str) -> None:
    async def phase() -> bool:
        body = await client.get(AUDIT_RECORD, workbench.namespace, name)
        return body is None or body.get("status", {}).get("phase") == "Stored"

    await until(phase, what=f"{name} is stored")
